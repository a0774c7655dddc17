"""Somebody who speaks to a server all the time, while tests do something else to it."""

from __future__ import annotations

import threading

import numpy as np

from clients.errors import ServerError
from protocol.client_messages import Hello
from protocol.errors import ErrorCode

from . import audio
from .server import Server
from .session import Heard, assert_sane, transcribe

STOP_TIMEOUT_S = 60.0
RETRY_S = 0.2


class Talker:
    """Says the same sentence over the Unix socket until it is stopped."""

    def __init__(self, server: Server) -> None:
        self._url = server.unix_url
        self._speech = np.concatenate([audio.short_clip(), audio.silence(0.5)])
        self._expected = self._once(realtime=False).identity()
        self._is_stopped = threading.Event()
        self._failure: BaseException | None = None
        self.num_passes = 0
        self._thread = threading.Thread(target=self._talk, daemon=True)
        self._thread.start()

    def _once(self, *, realtime: bool) -> Heard:
        heard = transcribe(self._url, self._speech, 20, Hello(client="talker"), realtime=realtime)
        assert_sane(heard, len(self._speech))
        return heard

    def _talk(self) -> None:
        try:
            while not self._is_stopped.is_set():
                self._speak()
        except BaseException as failure:
            self._failure = failure

    def _speak(self) -> None:
        """One pass. Who begins to speak while many addresses storm the server may be refused."""
        try:
            heard = self._once(realtime=True)
        except ServerError as error:
            if error.code is not ErrorCode.AT_CAPACITY:
                raise
            self._is_stopped.wait(RETRY_S)
            return
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
