"""What is said when a stream begins: to its client, and to each service that takes it. Pure.

The router asks; it alone knows the streams.
"""

from __future__ import annotations

from protocol import service_messages as service
from protocol.client_messages import Limits, Started, VadOptions

from .config import WorkerConfig
from .stream import Stream


def started_message(stream: Stream, config: WorkerConfig, model: str) -> Started:
    """The answer to an admitted hello."""
    hello = stream.hello
    return Started(
        session_id=stream.session_id,
        model=hello.model or model,
        language=hello.language,
        hop_ms=stream.promise.hop_ms,
        latency_class=stream.promise.latency_class,
        limits=Limits(
            max_utterance_ms=min(
                hello.vad.max_utterance_ms or config.max_utterance_ms, config.max_utterance_ms
            ),
            ring_ms=config.ring_ms,
            idle_timeout_ms=config.idle_timeout_ms,
            resume_window_ms=config.resume_window_ms,
        ),
    )


def open_message(stream: Stream, service_index: int) -> service.Open:
    """The stream as this service has to know it, from its last checkpoint on."""
    hello = stream.hello
    return service.Open(
        slot=stream.slot,
        generation=stream.generation,
        session_id=stream.session_id,
        first_sample=stream.history.start_sample,
        checkpoint=stream.history.state,
        language=hello.language,
        model=hello.model,
        prompt=hello.prompt,
        hotwords=hello.hotwords,
        tokens=hello.tokens,
        partials=hello.partials,
        hop_ms=hello.hop_ms or 0,
        vad=stream.history.vad,
        alone=stream.suspicion.is_suspect,
        group=stream.group,
        translate=hello.translate,
        was_admitted=service_index not in stream.admitted.services,
    )


def effective_vad(vad: VadOptions, config: WorkerConfig) -> VadOptions:
    """`--vad off` of the server holds for all sessions."""
    if config.vad or not vad.enabled:
        return vad
    return VadOptions(enabled=False, max_utterance_ms=vad.max_utterance_ms)
