"""What a stream keeps in order: utterances, silence, answers; and the jobs that decode utterances.

Pure data. Positions are ring samples of the stream. stream.py makes and orders them, scheduler.py
picks among the jobs, engine.py carries those out.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Utterance:
    """An utterance from its announcement to its final; `end_sample` is None while it is open."""

    number: int
    start_sample: int
    end_sample: int | None = None
    finalize_id: int | None = None
    fed_sample: int = 0  # the recognizer has [start, fed)
    drafted_sample: int = 0  # end of the audio of the newest draft


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


@dataclass(frozen=True, slots=True)
class Job:
    """Work for the recognizer: feed [feed_from, feed_to) of the utterance, then answer.

    `restart`: the recognizer heard audio behind the end (a cut lies in the past), so the
    utterance has to be fed again from its start into a fresh session.
    """

    kind: str  # "draft", "candidate" or "final"
    utterance: Utterance
    feed_from: int
    feed_to: int
    restart: bool = False
