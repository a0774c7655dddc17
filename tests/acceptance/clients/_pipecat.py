"""A Pipecat pipeline of one speech-to-text service: audio in, its frames noted.

Where the client's own voice activity detection would end a turn, VADUserStoppedSpeakingFrame is
sent: in the middle of the audio and at its end.
"""

import asyncio

from _voice_agent import RATE_HZ, Heard, frames, paced, until
from loguru import logger
from pipecat.frames.frames import (
    EndFrame,
    ErrorFrame,
    InputAudioRawFrame,
    InterimTranscriptionFrame,
    ProposedUserStartedSpeakingFrame,
    ProposedUserStoppedSpeakingFrame,
    TranscriptionFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.frame_processor import FrameProcessor
from pipecat.workers.runner import WorkerRunner

_TURNS = (ProposedUserStartedSpeakingFrame, ProposedUserStoppedSpeakingFrame)


class _Ear(FrameProcessor):
    """Stands behind the service."""

    def __init__(self, heard):
        super().__init__()
        self._heard = heard

    async def process_frame(self, frame, direction):
        await super().process_frame(frame, direction)
        if isinstance(frame, TranscriptionFrame):
            self._heard.final(frame.text)
        elif isinstance(frame, InterimTranscriptionFrame):
            self._heard.interim(frame.text)
        elif isinstance(frame, _TURNS):
            self._heard.turn(type(frame).__name__)
        await self.push_frame(frame, direction)


def _watch(service, heard, worker):
    logger.add(lambda line: heard.trouble(line.strip()), level="WARNING")

    @service.event_handler("on_connected")
    async def connected(_):
        heard.num_connects += 1

    @service.event_handler("on_connection_error")
    async def failed(_, error):
        heard.trouble(error)

    @worker.event_handler("on_pipeline_error")
    async def pipeline_failed(_, frame):
        assert isinstance(frame, ErrorFrame)
        heard.trouble(frame.error)


async def _talk(worker, heard, *, is_committed):
    """The last final has to come without a word more: it follows a turn's end or a commit."""
    middle = len(frames()) // 2
    in_the_middle = 0
    number = 0
    async for frame in paced():
        await worker.queue_frame(
            InputAudioRawFrame(audio=frame, sample_rate=RATE_HZ, num_channels=1)
        )
        number += 1
        if number == middle and is_committed:
            await worker.queue_frame(VADUserStoppedSpeakingFrame())
            await until("a final in the middle", lambda: heard.finals)
            in_the_middle = len(heard.finals)
            await worker.queue_frame(VADUserStartedSpeakingFrame())
    if is_committed:
        await worker.queue_frame(VADUserStoppedSpeakingFrame())
    await until("a final at the end", lambda: len(heard.finals) > in_the_middle)
    await heard.settle()  # further utterances, if the server ends them
    await worker.queue_frame(EndFrame())


async def _run(make_service, *, is_committed, has_turns):
    heard = Heard()
    service = make_service()
    worker = PipelineWorker(
        Pipeline([service, _Ear(heard)]), params=PipelineParams(audio_in_sample_rate=RATE_HZ)
    )
    _watch(service, heard, worker)
    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    await asyncio.gather(runner.run(), _talk(worker, heard, is_committed=is_committed))
    heard.check(has_turns=has_turns)


def run(make_service, *, is_committed=True, has_turns=False, timeout_s=90):
    """Drive the service that `make_service` builds inside the loop; fail by an assertion."""
    logger.remove()
    coroutine = _run(make_service, is_committed=is_committed, has_turns=has_turns)
    asyncio.run(asyncio.wait_for(coroutine, timeout_s))
