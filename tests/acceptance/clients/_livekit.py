"""A LiveKit speech-to-text plugin outside an agent: audio in, its speech events noted."""

import asyncio
import logging

from _voice_agent import FRAME_SAMPLES, RATE_HZ, Heard, paced, until
from livekit import rtc
from livekit.agents import stt, utils

_TURNS = (stt.SpeechEventType.START_OF_SPEECH, stt.SpeechEventType.END_OF_SPEECH)


class _Troubles(logging.Handler):
    """Takes warnings: a reconnect and a message that was not understood are logged as one."""

    def __init__(self, heard):
        super().__init__(logging.WARNING)
        self._heard = heard

    def emit(self, record):
        self._heard.trouble(record.getMessage())


async def _listen(stream, heard):
    async for event in stream:
        text = event.alternatives[0].text if event.alternatives else ""
        if event.type is stt.SpeechEventType.FINAL_TRANSCRIPT:
            heard.final(text)
        elif event.type is stt.SpeechEventType.INTERIM_TRANSCRIPT:
            heard.interim(text)
        elif event.type in _TURNS:
            heard.turn(event.type.value)


async def _talk(stream):
    async for frame in paced():
        stream.push_frame(rtc.AudioFrame(frame, RATE_HZ, 1, FRAME_SAMPLES))
    stream.end_input()


async def _run(make_plugin):
    heard = Heard()
    logging.getLogger().addHandler(_Troubles(heard))
    async with utils.http_context.open():
        plugin = make_plugin()
        plugin.on("error", lambda event: heard.trouble(event.error))
        stream = plugin.stream()
        listening = asyncio.create_task(_listen(stream, heard))
        await _talk(stream)
        # Without a commit or a bye: the server's own decision has to end the speech.
        await until("a final", lambda: heard.finals)
        await heard.settle()
        assert heard.turns[-1:] == ["end_of_speech"], heard.turns
        assert not listening.done() or listening.exception() is None, listening.exception()
        await stream.aclose()
        await plugin.aclose()
        await asyncio.gather(listening, return_exceptions=True)
    heard.check(has_turns=True)


def run(make_plugin, timeout_s=90):
    """Drive the plugin that `make_plugin` builds inside the loop; fail by an assertion."""
    asyncio.run(asyncio.wait_for(_run(make_plugin), timeout_s))
