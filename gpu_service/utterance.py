"""What a stream keeps in order: utterances, silence, answers, ends of turns; and the jobs that
decode utterances.

Pure data. Positions are ring samples of the stream. stream.py makes and orders them, scheduler.py
picks among the jobs, engine.py carries those out.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Utterance:
    """An utterance from its announcement to its final; `end_sample` is None while it is open.

    One that goes on behind a cut is decoded from what the recognizer carried over it, and from
    audio before it where `context_sample` lies before its start. One that ends at a cut is decoded
    with the audio behind it, up to `context_end_sample`. Both are positions that the endpointer
    decided.
    """

    number: int
    start_sample: int
    context_sample: int  # the recognizer hears from here on
    goes_on: bool = False  # behind a cut: the final before it, when it comes, brings its carry
    end_sample: int | None = None
    context_end_sample: int | None = None  # not None: it ends at a cut
    finalize_id: int | None = None
    carry: bytes = b""  # of the recognizer, from before the cut at which it begins
    fed_sample: int = field(init=False)  # the recognizer has [context, fed)
    drafted_sample: int = field(init=False)  # end of the audio of the newest draft

    def __post_init__(self) -> None:
        self.fed_sample = self.context_sample
        self.drafted_sample = self.start_sample


@dataclass(frozen=True, slots=True)
class NonSpeech:
    """A decided stretch without speech, waiting for its place in the order."""

    start_sample: int
    end_sample: int


@dataclass(frozen=True, slots=True)
class Answer:
    """A finalize that found no speech: answered by an empty final."""

    finalize_id: int
    at_sample: int
    utterance: int  # the number of the one that comes next


@dataclass(frozen=True, slots=True)
class TurnEnd:
    """A turn whose last utterance this was: said behind that utterance's final."""

    utterance: int  # its number
    end_sample: int


@dataclass(frozen=True, slots=True)
class Job:
    """Work for the recognizer: feed [feed_from, feed_to) of the utterance, then answer.

    The last `right_samples` of that are context behind the utterance's end. `restart`: the
    recognizer heard audio behind that (a cut lies in the past), so the utterance has to be fed
    again, from its context on, into a fresh session.
    """

    kind: str  # "draft", "candidate" or "final"
    utterance: Utterance
    feed_from: int
    feed_to: int
    right_samples: int = 0
    restart: bool = False
