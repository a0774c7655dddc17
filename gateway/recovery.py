"""What the next service has to be told of a stream when its service dies, and what of the answers
its client has heard already. Pure.

The ring keeps a stream's audio from its last checkpoint on. Whoever takes the stream over gets the
checkpoint, that audio and the controls behind it again, and by determinism answers as the dead
service did: what was said since the checkpoint is said once more. A History keeps the controls,
and lets pass only what is new to the client. A Suspicion tells a stream that kills services from
one that was only there. The router owns one of each per stream, and asks.

A History outlives its worker as a SavedHistory and what happened since: the journal's matter.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

import msgspec
from msgspec import structs

from protocol import client_messages as client
from protocol import service_messages as service
from protocol.client_messages import ServerMessage, VadOptions
from protocol.joined_text import gap, joined
from protocol.service_messages import Checkpoint, Close, Configure, Finalize

# Controls behind the last checkpoint. A service makes one soon after each control, unless
# utterances wait to be decoded: a person or an agent cannot mean so many.
MAX_CONTROLS = 4_096
MAX_STRIKES = 3  # services that died in a row while a step with this stream ran
MAX_SILENT_DEATHS = 10  # services that died in a row before they said a word about this stream
SILENCE_NS = 10_000_000_000  # a service that lived so long with a stream has nothing against it

Control: TypeAlias = Finalize | Configure | Close
_SpeechEvent: TypeAlias = (
    service.SpeechStarted | service.SpeechStopped | service.NonSpeech | service.EndOfTurn
)
Result: TypeAlias = service.Partial | service.Final | _SpeechEvent

# Events that are known by their utterance, as services and clients have them, in a fixed order.
_ORDERED = (service.SpeechStarted, service.SpeechStopped, service.EndOfTurn)
_ORDERED_AT_CLIENT = (client.SpeechStarted, client.SpeechStopped, client.EndOfTurn)

_encoder = msgspec.msgpack.Encoder()


class SavedHistory(msgspec.Struct, frozen=True, array_like=True):
    """All that a History knows but its controls, as a value; the fields are the History's."""

    vad: VadOptions
    checkpoint: Checkpoint | None
    num_controls_done: int
    tiled_sample: int
    tiles: dict[int, int]
    decoded_utterance: int
    newest: tuple[int, ...]  # by kind of event, as _ORDERED has them
    num_answers: int
    shown: tuple[int, str]
    sample_at_checkpoint: int
    answers_at_checkpoint: int


class History:
    """See the module text. `vad` is what holds at the last checkpoint, or from the beginning."""

    __slots__ = (
        "_answer", "_answers_at_checkpoint", "_controls", "_decoded_utterance", "_newest",
        "_num_answers", "_num_controls_done", "_present_sample", "_resumed",
        "_sample_at_checkpoint", "_shown", "_tiled_sample", "_tiles", "checkpoint", "differences",
        "vad",
    )  # fmt: skip

    def __init__(self, vad: VadOptions) -> None:
        self.vad = vad
        self.checkpoint: Checkpoint | None = None  # the newest; at most 64 KiB
        self.differences = 0  # repeated answers that were not as before, until somebody counts them
        self._controls: deque[Control] = deque()  # sent behind the checkpoint
        self._num_controls_done = 0  # before it
        # What the client heard
        self._tiled_sample = 0  # finals and non-speech up to here
        self._tiles: dict[int, int] = {}  # behind the checkpoint: start -> hash of what was said
        self._decoded_utterance = -1
        self._newest = dict.fromkeys(_ORDERED, -1)  # utterance, by kind of event
        self._num_answers = 0  # of finalizes, over all services
        self._shown: tuple[int, str] = (-1, "")  # utterance and its stable text
        self._resumed: tuple[int, str] = (-1, "")  # the same, when the last service died
        # Where the present service is, and where it was at the checkpoint
        self._present_sample = self._sample_at_checkpoint = 0
        self._answer = self._answers_at_checkpoint = 0

    # What the next service is told

    @property
    def start_sample(self) -> int:
        """Where it begins: audio from here on has to be in the ring."""
        return 0 if self.checkpoint is None else self.checkpoint.sample

    @property
    def state(self) -> bytes:
        """The checkpoint's; empty when the stream begins from nothing."""
        return b"" if self.checkpoint is None else self.checkpoint.state

    @property
    def controls(self) -> tuple[Control, ...]:
        """What was sent behind the checkpoint, in order, each with its place."""
        return tuple(self._controls)

    @property
    def is_full(self) -> bool:
        """No more finalizes and options until a checkpoint covers some."""
        return len(self._controls) >= MAX_CONTROLS

    def remember(self, control: Control) -> None:
        """This control is sent now, or will be when there is a service."""
        self._controls.append(control)

    def commit(self, checkpoint: Checkpoint) -> None:
        """A newer checkpoint: what lies before it is never needed again."""
        self.checkpoint = checkpoint
        while self._controls and self._num_controls_done < checkpoint.controls:
            done = self._controls.popleft()
            self._num_controls_done += 1
            if isinstance(done, Configure):
                self.vad = done.vad
        self._answers_at_checkpoint = self._answer
        self._sample_at_checkpoint = self._present_sample
        # A service that has not caught up with the one before it covers a part only.
        for start in tuple(self._tiles):
            if start >= self._present_sample:
                break
            del self._tiles[start]

    def begin_again(self) -> None:
        """Another service begins at the checkpoint."""
        self._answer = self._answers_at_checkpoint
        self._present_sample = self._sample_at_checkpoint
        self._resumed = self._shown

    # What the client is told

    def sift(self, message: Result) -> Result | None:
        """What of a service's message the client has not heard yet; None: nothing."""
        if isinstance(message, service.Partial):
            return self._sift_partial(message)
        if isinstance(message, service.Final):
            return self._sift_final(message)
        return message if self._is_new(message) else None

    def _is_new(self, message: _SpeechEvent) -> bool:
        if isinstance(message, service.NonSpeech):
            return self._is_new_tile(message.start_sample, message.end_sample, 0)
        is_new = message.utterance > self._newest[type(message)]
        if is_new:
            self._newest[type(message)] = message.utterance
        return is_new

    def _is_new_tile(self, start_sample: int, end_sample: int, fingerprint: int) -> bool:
        """Finals and non-speech tile the stream: what ends behind all of them is new."""
        self._present_sample = end_sample
        if end_sample <= self._tiled_sample:
            self.differences += self._tiles.get(start_sample) != fingerprint
            return False
        self.differences += start_sample != self._tiled_sample
        self._tiled_sample = end_sample
        self._tiles[start_sample] = fingerprint
        return True

    def _sift_final(self, message: service.Final) -> service.Final | None:
        is_new = self._is_new_answer() if message.finalize_id is not None else False
        if message.end_sample > message.start_sample:
            fingerprint = _fingerprint(message)
            is_new |= self._is_new_tile(message.start_sample, message.end_sample, fingerprint)
            self._decoded_utterance = max(self._decoded_utterance, message.utterance)
        if not is_new:
            return None
        utterance, shown = self._resumed
        if message.utterance == utterance and not message.text.startswith(shown):
            return structs.replace(message, revised=True)  # the new service does not know
        return message

    def _is_new_answer(self) -> bool:
        """Finalizes are answered in order, and clients may use an id twice: they are counted."""
        self._answer += 1
        is_new = self._answer > self._num_answers
        self._num_answers = max(self._num_answers, self._answer)
        return is_new

    def _sift_partial(self, message: service.Partial) -> service.Partial | None:
        if message.utterance <= self._decoded_utterance:
            return None
        utterance, shown = self._resumed
        if message.utterance == utterance:
            continued = _continued(message, shown)
            if continued is None:
                return None
            message = continued
        self._shown = (message.utterance, message.stable)
        return message

    # Beyond the worker

    @property
    def shown(self) -> tuple[int, str]:
        """The utterance whose draft the client saw last, and its stable text."""
        return self._shown

    @property
    def num_answers(self) -> int:
        """Finalizes whose answers the client has."""
        return self._num_answers

    @property
    def at_checkpoint(self) -> tuple[int, int]:
        """Where the service was at the checkpoint: tiled sample, answers."""
        return self._sample_at_checkpoint, self._answers_at_checkpoint

    def save(self) -> SavedHistory:
        """As a value; `controls` go with it. Where the present service is, is not part of it."""
        return SavedHistory(
            self.vad,
            self.checkpoint,
            self._num_controls_done,
            self._tiled_sample,
            dict(self._tiles),
            self._decoded_utterance,
            tuple(self._newest.values()),
            self._num_answers,
            self._shown,
            *self.at_checkpoint,
        )

    @classmethod
    def restore(cls, saved: SavedHistory, controls: Iterable[Control]) -> History:
        """As it was; its service is gone."""
        history = cls(saved.vad)
        history.checkpoint = saved.checkpoint
        history._controls.extend(controls)
        history._num_controls_done = saved.num_controls_done
        history._tiled_sample = saved.tiled_sample
        history._tiles.update(saved.tiles)
        history._decoded_utterance = saved.decoded_utterance
        history._newest.update(zip(_ORDERED, saved.newest, strict=True))
        history._num_answers = saved.num_answers
        history._shown = saved.shown
        history._sample_at_checkpoint = saved.sample_at_checkpoint
        history._answers_at_checkpoint = saved.answers_at_checkpoint
        return history

    def commit_again(self, checkpoint: Checkpoint, tiled_sample: int, num_answers: int) -> None:
        """After a restore: this was committed since, with the service at that place."""
        self._present_sample, self._answer = tiled_sample, num_answers
        self.commit(checkpoint)

    def heard(self, event: ServerMessage, num_answers: int) -> None:
        """After a restore: this was told to the client since, and so many finalizes answered."""
        self._num_answers = num_answers
        if isinstance(event, client.NonSpeech):
            self._add_tile(event.start_sample, event.end_sample, 0)
        elif isinstance(event, client.Final):
            if event.end_sample > event.start_sample:
                self._add_tile(event.start_sample, event.end_sample, _fingerprint(event))
                self._decoded_utterance = max(self._decoded_utterance, event.utterance)
        elif isinstance(event, _ORDERED_AT_CLIENT):
            kind = _ORDERED[_ORDERED_AT_CLIENT.index(type(event))]
            self._newest[kind] = max(self._newest[kind], event.utterance)

    def _add_tile(self, start_sample: int, end_sample: int, fingerprint: int) -> None:
        if end_sample > self._tiled_sample:
            self._tiled_sample = end_sample
            self._tiles[start_sample] = fingerprint

    def saw(self, utterance: int, stable: str) -> None:
        """After a restore: this stable text was shown since."""
        self._shown = utterance, stable


def _fingerprint(final: service.Final | client.Final) -> int:
    """Of what another service must say as well: drafts, and with them `revised`, may differ. It is
    the same in every process, and of the client's event what it was of the service's.
    """
    said = (
        final.utterance,
        final.end_sample,
        final.text,
        final.words,
        final.tokens,
        final.finalize_id,
    )
    return zlib.crc32(_encoder.encode(said))


def _continued(partial: service.Partial, shown: str) -> service.Partial | None:
    """The draft as one that keeps the stable text which was shown before; None when it cannot."""
    if partial.stable.startswith(shown):
        return partial
    text = joined((partial.stable, partial.volatile))
    behind = text.removeprefix(shown)
    if text != shown + behind or gap(shown, behind):  # other text, or the middle of a word
        return None
    return structs.replace(partial, stable=shown, volatile=behind.lstrip())


@dataclass(slots=True)
class Suspicion:
    """Whether a stream kills the services that take it.

    Each service counts the steps of a stream in the arena: twice a step, so that the count is odd
    while one runs, also when the service is dead. A suspect is decoded alone in its steps, which
    makes the next death its own.
    """

    strikes: int = 0
    silent_deaths: int = 0
    was_heard_of: bool = False  # the present service has said something about it
    _first_count: int = 0
    _opened_ns: int = 0

    @property
    def is_suspect(self) -> bool:
        """Decode it alone."""
        return self.strikes > 0

    def opened(self, step_count: int, now_ns: int) -> None:
        """A service begins with it."""
        self.was_heard_of = False
        self._opened_ns = now_ns
        self._first_count = step_count

    def service_died(self, step_count: int, now_ns: int) -> None:
        """The service is dead and left this count."""
        steps_done = step_count // 2 - (self._first_count + 1) // 2
        if steps_done > 0:
            self.strikes = 0
        if self.was_heard_of or now_ns - self._opened_ns >= SILENCE_NS:
            self.silent_deaths = 0
        else:
            self.silent_deaths += 1
        self.strikes += step_count % 2 and step_count != self._first_count

    @property
    def is_hopeless(self) -> bool:
        """No further service should be tried."""
        return self.strikes >= MAX_STRIKES or self.silent_deaths >= MAX_SILENT_DEATHS
