"""Somebody who speaks to a server all the time, while tests do something else to it."""

from __future__ import annotations

import threading

import numpy as np

from clients.errors import ConnectionLost, ServerError
from protocol.client_messages import Hello
from protocol.errors import ErrorCode

from . import audio
from .server import Server
from .session import Stream, assert_sane, transcribe

STOP_TIMEOUT_S = 60.0
RETRY_S = 0.2
HELLO = Hello(client="talker")


class Talker:
    """Says the same sentence over the Unix socket until it is stopped."""

    def __init__(self, server: Server) -> None:
        self._url = server.unix_url
        self._speech = np.concatenate([audio.short_clip(), audio.silence(0.5)])
        heard = transcribe(self._url, self._speech, 20, HELLO)
        assert_sane(heard, len(self._speech))
        self._expected = heard.identity()
        self._is_stopped = threading.Event()
        self._failure: BaseException | None = None
        self.num_passes = 0
        self._thread = threading.Thread(target=self._talk, daemon=True)
        self._thread.start()

    def _talk(self) -> None:
        try:
            while not self._is_stopped.is_set():
                self._speak()
        except BaseException as failure:
            self._failure = failure

    def _speak(self) -> None:
        """One pass. Who connects while many addresses storm the server may be refused, or, when it
        refuses too many already, sent away without a word; who is in stays in.
        """
        try:
            stream = Stream(self._url, HELLO)
        except (ServerError, ConnectionLost) as error:
            if isinstance(error, ServerError) and error.code is not ErrorCode.AT_CAPACITY:
                raise
            self._is_stopped.wait(RETRY_S)
            return
        with stream:
            stream.send(self._speech, 20, realtime=True)
            heard = stream.finish()
        assert_sane(heard, len(self._speech))
        assert heard.identity() == self._expected
        self.num_passes += 1

    def check(self) -> None:
        """All is well so far."""
        assert self._failure is None, repr(self._failure)

    def stop(self) -> None:
        """After the sentence that it is saying."""
        self._is_stopped.set()
        self._thread.join(STOP_TIMEOUT_S)
        assert not self._thread.is_alive()
        self.check()
