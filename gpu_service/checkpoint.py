"""Checkpoints: what a new service needs to go on with a stream, in at most 64 KiB.

Pure. A checkpoint holds decisions and the state behind them (endpointer, text shown as stable,
counters, and the VAD's recurrent state as bytes), not audio: the gateway keeps the ring from
`sample` on, and the recognizer hears the open utterance (and its context, where it goes on behind
a cut) again from there. Restoring and feeding the same audio gives the same events as if nothing
had happened; a test holds that. A service with another model takes decisions and text over, but not
what the model itself carried over a cut: it hears an open utterance from its start.

Checkpoints are taken when no closed utterance waits for its final, so a queue is never part of one.
"""

from __future__ import annotations

from array import array

import msgspec

from protocol.service_messages import CHECKPOINT_VERSION, Checkpoint

from .endpointer import Endpointer, PresentTurn, State
from .errors import ServiceError
from .stream import Stream
from .utterance import Utterance
from .words import Word


class CheckpointError(ServiceError):
    """A checkpoint cannot be restored: of another version, or damaged."""


class _Saved(msgspec.Struct, frozen=True, array_like=True):
    version: int
    next_frame: int
    state: str
    tiled_sample: int
    start_sample: int  # of the open or pending utterance
    context_sample: int  # where the recognizer begins to hear the open one
    carry: bytes  # the recognizer's state at the cut where the open one goes on
    onset_sample: int
    num_speech_frames: int
    pause_sample: int | None
    has_candidate: bool
    turn: tuple[int, int] | None  # that may end: where its speech and its last utterance ended
    probabilities: bytes  # float32, as the VAD model computes them
    utterances: int
    controls: int  # carried out
    heard_sample: int
    engine_samples: int
    stable: tuple[Word, ...]  # shown as stable of the open utterance
    vad: bytes
    model: str  # whose `carry` that is


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Saved)


def take_checkpoint(stream: Stream, vad_state: bytes) -> Checkpoint:
    """The stream as it is; the caller has checked `stream.can_checkpoint`."""
    endpointer = stream.endpointer
    utterance, turn = endpointer.utterance, endpointer.turn
    open_utterance = stream.open_utterance
    saved = _Saved(
        CHECKPOINT_VERSION,
        endpointer.next_frame,
        endpointer.state.value,
        endpointer.tiled_sample,
        utterance.start_sample,
        utterance.start_sample if open_utterance is None else open_utterance.context_sample,
        b"" if open_utterance is None else open_utterance.carry,
        utterance.onset_sample,
        utterance.num_speech_frames,
        utterance.pause_sample,
        utterance.has_candidate,
        None if turn is None else (turn.quiet_sample, turn.end_sample),
        array("f", endpointer.probabilities).tobytes(),
        stream.utterances,
        stream.num_controls,
        stream.audio_decoded,
        stream.engine_samples,
        stream.transcript.stable,
        vad_state,
        stream.model,
    )
    return Checkpoint(
        stream.slot,
        stream.generation,
        CHECKPOINT_VERSION,
        stream.released_sample,
        _encoder.encode(saved),
        stream.num_controls,
    )


def restore_checkpoint(stream: Stream, state: bytes) -> bytes:
    """Put a new stream where the checkpoint left the old one; returns the VAD state.

    Raises CheckpointError.
    """
    try:
        saved = _decoder.decode(state)
        endpointer_state = State(saved.state)
        probabilities = array("f", saved.probabilities)
    except (msgspec.DecodeError, ValueError) as error:
        raise CheckpointError(f"damaged checkpoint: {error}") from error
    if saved.version != CHECKPOINT_VERSION:
        raise CheckpointError(f"checkpoint of version {saved.version}")
    _restore_endpointer(stream.endpointer, saved, endpointer_state)
    stream.endpointer.probabilities[:] = probabilities
    utterance = _open_utterance(saved, stream.model) if endpointer_state is State.SPEECH else None
    stream.num_controls = saved.controls
    stream.restore(utterance, saved.utterances, saved.heard_sample, saved.engine_samples)
    stream.transcript.restore(saved.stable)
    return saved.vad


def _open_utterance(saved: _Saved, model: str) -> Utterance:
    # The final before it was said before the checkpoint: where it goes on, it has its carry.
    number, start_sample = saved.utterances - 1, saved.start_sample
    if saved.model != model:
        return Utterance(number, start_sample, start_sample)
    return Utterance(number, start_sample, saved.context_sample, carry=saved.carry)


def _restore_endpointer(endpointer: Endpointer, saved: _Saved, state: State) -> None:
    endpointer.next_frame = saved.next_frame
    endpointer.state = state
    endpointer.tiled_sample = saved.tiled_sample
    endpointer.turn = None if saved.turn is None else PresentTurn(*saved.turn)
    utterance = endpointer.utterance
    utterance.start_sample = saved.start_sample
    utterance.onset_sample = saved.onset_sample
    utterance.num_speech_frames = saved.num_speech_frames
    utterance.pause_sample = saved.pause_sample
    utterance.has_candidate = saved.has_candidate
