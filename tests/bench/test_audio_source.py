"""Recordings made of others: distinct ones, and ones with long utterances."""

from __future__ import annotations

import numpy as np

from bench.audio_source import Recording, distinct, with_utterances
from bench.speech_edges import Interval, find_speech

RATE_HZ = 16_000


def talk(seconds_of_speech: list[float], seconds_of_pause: float) -> Recording:
    """Tones with pauses between."""
    pieces = [np.zeros(RATE_HZ // 2, np.int16)]
    for seconds in seconds_of_speech:
        t = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
        pieces.append((8_000 * np.sin(2 * np.pi * 440 * t)).astype(np.int16))
        pieces.append(np.zeros(round(seconds_of_pause * RATE_HZ), np.int16))
    samples = np.concatenate(pieces)
    return Recording("tones", samples.tobytes(), tuple(find_speech(samples)))


def test_distinct_recordings_have_the_same_speech_in_another_place() -> None:
    base = talk([1.0, 2.0, 1.5], 0.6)
    made = distinct([base], 5)
    assert len({recording.pcm for recording in made}) == 5
    lengths = sorted(edge.end - edge.start for edge in base.speech)
    for recording in made:
        assert recording.num_samples == base.num_samples
        assert sorted(edge.end - edge.start for edge in recording.speech) == lengths
        found = find_speech(np.frombuffer(recording.pcm, np.int16))
        for edge, other in zip(recording.speech, found, strict=True):
            assert abs(edge.start - other.start) <= 320
            assert abs(edge.end - other.end) <= 320


def test_distinct_recordings_take_their_bases_in_turn() -> None:
    bases = [talk([1.0], 0.5), talk([1.3], 0.5)]
    made = distinct(bases, 4)
    assert [recording.num_samples for recording in made] == [
        bases[index % 2].num_samples for index in range(4)
    ]
    assert made[0].speech == (Interval(bases[0].speech[0].start, bases[0].speech[0].end),)


def test_pauses_are_shortened_until_an_utterance_is_long() -> None:
    made = with_utterances(talk([1.0] * 6, 2.0), 3.0)
    gaps = [
        (other.start - one.end) / RATE_HZ
        for one, other in zip(made.speech, made.speech[1:], strict=False)
    ]
    assert [round(gap, 1) for gap in gaps] == [0.2, 0.2, 1.0, 0.2, 0.2]


def test_many_rounds_stay_in_the_pauses() -> None:
    base = with_utterances(talk([1.0, 1.2, 0.8], 0.5), 10.0)
    for recording in distinct([base], 700)[::7]:
        assert all(edge.end <= recording.num_samples for edge in recording.speech)
        assert recording.speech[0].start > 0
