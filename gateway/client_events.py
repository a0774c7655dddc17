"""Service messages as client events: the same facts, with the stream's counters beside them. Pure.

The router calls it for everything a service says about a stream that the client should hear.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from protocol import service_messages as service
from protocol.client_messages import (
    EndOfTurn,
    Final,
    NonSpeech,
    Partial,
    ServerMessage,
    SpeechStarted,
    SpeechStopped,
    Stages,
)

from .stream import Stream

ResultMessage: TypeAlias = (
    service.SpeechStarted
    | service.SpeechStopped
    | service.NonSpeech
    | service.Partial
    | service.Final
    | service.EndOfTurn
)


def client_event(
    message: ResultMessage, stream: Stream, enqueue_ns: Callable[[int], int], now_ns: int
) -> ServerMessage:
    """The event; `enqueue_ns` looks up when audio received at some time was announced."""
    received, decoded = stream.ring_samples, stream.decoded_samples
    if isinstance(message, service.Partial):
        return Partial(
            audio_received=received,
            audio_decoded=decoded,
            utterance=message.utterance,
            start_sample=message.start_sample,
            end_sample=message.end_sample,
            stable=message.stable,
            volatile=message.volatile,
            stages=_stages(message.stages, enqueue_ns, now_ns),
        )
    if isinstance(message, service.Final):
        return Final(
            audio_received=received,
            audio_decoded=decoded,
            utterance=message.utterance,
            start_sample=message.start_sample,
            end_sample=message.end_sample,
            text=message.text,
            words=message.words,
            tokens=message.tokens,
            language=message.language,
            revised=message.revised,
            finalize_id=message.finalize_id,
            stages=_stages(message.stages, enqueue_ns, now_ns),
        )
    return _speech_event(message, received, decoded)


def empty_final(finalize_id: int, now_ns: int) -> Final:
    """The answer to a finalize before any audio."""
    return Final(
        audio_received=0,
        audio_decoded=0,
        utterance=0,
        start_sample=0,
        end_sample=0,
        text="",
        finalize_id=finalize_id,
        stages=Stages(send_ns=now_ns),
    )


def _stages(stages: Stages, enqueue_ns: Callable[[int], int], now_ns: int) -> Stages:
    return Stages(
        receive_ns=stages.receive_ns,
        enqueue_ns=stages.enqueue_ns or enqueue_ns(stages.receive_ns),
        batch_start_ns=stages.batch_start_ns,
        device_done_ns=stages.device_done_ns,
        send_ns=now_ns,
    )


def _speech_event(
    message: (
        service.SpeechStarted | service.SpeechStopped | service.NonSpeech | service.EndOfTurn
    ),
    received: int,
    decoded: int,
) -> ServerMessage:
    if isinstance(message, service.SpeechStarted):
        return SpeechStarted(
            audio_received=received,
            audio_decoded=decoded,
            utterance=message.utterance,
            start_sample=message.start_sample,
        )
    if isinstance(message, service.SpeechStopped):
        return SpeechStopped(
            audio_received=received,
            audio_decoded=decoded,
            utterance=message.utterance,
            end_sample=message.end_sample,
        )
    if isinstance(message, service.EndOfTurn):
        return EndOfTurn(
            audio_received=received,
            audio_decoded=decoded,
            utterance=message.utterance,
            end_sample=message.end_sample,
        )
    return NonSpeech(
        audio_received=received,
        audio_decoded=decoded,
        start_sample=message.start_sample,
        end_sample=message.end_sample,
    )
