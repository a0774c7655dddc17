"""Whisper's next token from logits that a test makes: of many blocks, as the oracle says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
from numpy.typing import NDArray

from gpu_service.decoding.whisper_oracle import mask_logits, softmax
from gpu_service.decoding.whisper_rules import TokenRules
from gpu_service.decoding.whisper_sampling import choose
from gpu_service.gpu.device import Device, DeviceArray
from gpu_service.gpu.whisper_steps import (
    CHOOSE_THREADS,
    CHUNK,
    PLAIN,
    RESULT,
    ROW,
    TIMED,
    DecoderBuffers,
    WhisperSteps,
)
from gpu_service.gpu.whisper_weights import load_whisper_decoder, load_whisper_encoder
from gpu_service.weights.whisper_vocabulary import NUM_TIMESTAMPS, WhisperVocabulary

from .test_whisper_encoder import checkpoint

Logits = NDArray[np.float32]

SIZE = 3 * CHUNK + 700  # not a whole number of chunks, nor of what a thread reads at once
NO_TIMESTAMPS = SIZE - NUM_TIMESTAMPS - 31  # times begin inside of a chunk, and end before the last
END, MAX_BATCH, POSITIONS = 90, 4, 128
BEHIND = 60.0  # a logit that nobody may read: behind the vocabulary
PROMPT = (91, 5)  # <|startoftranscript|> and something behind it
NEVER = np.float32(-np.inf)


@dataclass(frozen=True, slots=True)
class Asked:
    """A row, as the host asks it."""

    kind: int = PLAIN
    max_tokens: int = 9
    temperature: float = 0.0
    seed: int = 0
    prompt: tuple[int, ...] = PROMPT

    def write(self, row: np.void) -> None:
        row["prompt_length"], row["max_tokens"] = len(self.prompt), self.max_tokens
        row["start"], row["kind"], row["max_initial"] = 0, self.kind, 50
        row["temperature"], row["seed"] = self.temperature, self.seed
        row["prompt"][: len(self.prompt)] = self.prompt


@dataclass(frozen=True, slots=True)
class Chooser:
    """The steps of a decoder without layers."""

    device: Device
    steps: WhisperSteps
    buffers: DecoderBuffers
    rows: DeviceArray
    vocabulary: WhisperVocabulary
    table: NDArray[np.float32]
    positions: NDArray[np.float32]

    @classmethod
    def of(cls, device: Device, size: int = SIZE) -> Chooser:
        model = checkpoint(multilingual=True)
        vocabulary = replace(
            model.vocabulary, size=size, end=END, no_timestamps=NO_TIMESTAMPS, no_speech=97,
            suppressed=(1, 2, CHUNK + 1), suppressed_first=(20, END),
        )  # fmt: skip
        encoder = load_whisper_encoder(device, model, "fp32")
        encoder = replace(encoder, config=replace(encoder.config, vocabulary_size=size))
        decoder = load_whisper_decoder(device, model, encoder)
        random = np.random.default_rng(3)
        table = random.standard_normal((size, encoder.config.width), np.float32)
        buffers = DecoderBuffers.make(device, encoder, MAX_BATCH, POSITIONS, 1)
        rows = device.zeros((MAX_BATCH, ROW.itemsize // 4), np.int32)
        steps = WhisperSteps(
            device, encoder, replace(decoder, tokens=device.upload(table)), vocabulary, buffers,
            rows, POSITIONS,
        )  # fmt: skip
        positions = device.download(decoder.positions)
        return cls(device, steps, buffers, rows, vocabulary, table, positions)

    def begin(self, asked: Sequence[Asked | None]) -> None:
        rows = np.zeros(len(asked), ROW)
        for row, each in zip(rows, asked, strict=True):
            if each is not None:
                each.write(row)
        whole = np.zeros((MAX_BATCH, ROW.itemsize // 4), np.int32)
        whole[: len(asked)] = rows.view(np.int32).reshape(len(asked), -1)
        self.device.copy(self.rows, self.device.upload(whole))
        self.steps.begin(len(asked))
        self.steps.embed(len(asked))
        self.device.synchronize()

    def step(self, logits: Logits) -> bool:
        """Logits (B, V); whether any row goes on."""
        whole = np.full(self.buffers.logits.shape, BEHIND, np.float32)
        whole[: len(logits), : logits.shape[1]] = logits
        self.device.copy(self.buffers.logits, self.device.upload(whole))
        self.steps.choose(len(logits))
        self.device.synchronize()
        return self.steps.is_active

    def result(self, row: int) -> np.void:
        results = self.device.download(self.buffers.results).view(RESULT)[:, 0]
        result: np.void = results[row]
        return result

    def tokens(self, row: int) -> tuple[int, ...]:
        result = self.result(row)
        return tuple(result["tokens"][: result["num_tokens"]].tolist())

    def x(self, row: int) -> NDArray[np.float32]:
        return np.asarray(self.device.download(self.buffers.x))[row]

    def one(self, logits: Logits, asked: Asked = Asked()) -> int:
        """The first token of a row alone."""
        self.begin([asked])
        assert self.step(logits[None]) is True
        (token,) = self.tokens(0)
        return token

    def rules(self, asked: Asked) -> TokenRules:
        return TokenRules(self.vocabulary, timestamps=asked.kind == TIMED)


def flat() -> Logits:
    return np.full(SIZE, -3.0, np.float32)


@pytest.mark.parametrize("token", [0, 3, CHUNK - 1, CHUNK, 2 * CHUNK - 1, 2 * CHUNK, NO_TIMESTAMPS])
def test_the_best_token_may_be_in_any_chunk(device: Device, token: int) -> None:
    logits = flat()
    logits[token] = 1.0
    logits[-1] = 2.0  # behind all times: never comes
    chooser = Chooser.of(device)
    assert chooser.one(logits) == token
    expected = chooser.table[token] + chooser.positions[len(PROMPT)]
    np.testing.assert_array_equal(chooser.x(0), expected)


@pytest.mark.parametrize("last", [NO_TIMESTAMPS + 1 + 400, SIZE - 32])
def test_the_best_time_may_be_in_the_last_chunk(device: Device, last: int) -> None:
    chooser, asked, logits = Chooser.of(device), Asked(TIMED), flat()
    logits[NO_TIMESTAMPS + 1 :] = 1.0
    first = chooser.one(logits, asked)
    assert first == NO_TIMESTAMPS + 1
    text, time = flat(), flat()
    text[40] = 20.0
    time[last], time[last + 1 :] = 20.0, 0.0
    assert chooser.step(text[None])
    assert chooser.step(time[None])
    assert chooser.tokens(0) == (first, 40, last)


def test_of_equals_the_lowest_token_comes(device: Device) -> None:
    logits = flat()
    logits[[CHUNK - 1, CHUNK, CHUNK + 7, 2 * CHUNK + 5]] = 1.0
    chooser = Chooser.of(device)
    assert chooser.one(logits) == CHUNK - 1
    logits[CHUNK - 1] = 0.5
    assert chooser.one(logits) == CHUNK
    assert chooser.one(np.zeros(SIZE, np.float32)) == 0


def test_of_a_text_and_one_time_that_are_equals_the_text_comes(device: Device) -> None:
    chooser, begin = Chooser.of(device), flat()
    begin[NO_TIMESTAMPS + 1] = 9.0
    assert chooser.one(begin, Asked(TIMED)) == NO_TIMESTAMPS + 1
    begin[40] = 20.0
    assert chooser.step(begin[None])
    equal = np.full(SIZE, NEVER, np.float32)
    equal[[41, NO_TIMESTAMPS + 9]] = 1.0
    assert chooser.step(equal[None])
    assert chooser.tokens(0)[1:] == (40, 41)


def test_times_of_several_chunks_count_together(device: Device) -> None:
    """Neither chunk's times outweigh the best text, but all of them do."""
    chooser, asked = Chooser.of(device), Asked(TIMED)
    first = NO_TIMESTAMPS + 1
    begin = flat()
    begin[first + 3] = 9.0
    assert chooser.one(begin, asked) == first + 3
    text = flat()
    text[40] = 20.0
    assert chooser.step(text[None])
    logits = np.full(SIZE, -20.0, np.float32)
    logits[first:] = 0.0
    inside = [3 * CHUNK - first, NUM_TIMESTAMPS]  # of the first chunk that has times, of both
    logits[41] = (np.log(inside[0]) + np.log(inside[1])) / 2
    assert np.log(inside[0]) < logits[41] < np.log(inside[1] - 4)
    assert chooser.step(logits[None])
    assert chooser.tokens(0) == (first + 3, 40, first + 4)
    assert chooser.result(0)["logs"][2] == pytest.approx(-np.log(NUM_TIMESTAMPS - 4), abs=1e-4)
    # Where the text is a little more probable than all of them, it comes.
    text[41] = np.log(inside[1]) + 0.01
    text[40], text[first:] = -20.0, 0.0
    chooser.begin([asked])
    for each in (begin, np.where(np.arange(SIZE) == 40, 20.0, -3.0).astype(np.float32), text):
        chooser.step(each[None])
    assert chooser.tokens(0)[2] == 41


def test_what_nothing_may_follow_ends(device: Device) -> None:
    chooser = Chooser.of(device)
    chooser.begin([Asked()])
    before = chooser.x(0)
    nothing = np.full((1, SIZE), NEVER, np.float32)
    nothing[0, 1] = 5.0  # suppressed
    assert chooser.step(nothing) is False
    result = chooser.result(0)
    assert (result["num_tokens"], result["has_ended"], result["logs"][0]) == (0, 1, 0.0)
    np.testing.assert_array_equal(chooser.x(0), before)


def test_a_row_that_ended_stays_as_it_is(device: Device) -> None:
    chooser, logits = Chooser.of(device), np.stack([flat(), flat(), flat()])
    chooser.begin([Asked(max_tokens=2), None, Asked(max_tokens=3)])
    logits[:, 30] = 1.0
    assert chooser.step(logits)
    logits[0, END] = 2.0
    assert chooser.step(logits)
    assert chooser.result(0)["has_ended"] == 1
    x, ended = chooser.x(0), chooser.result(0).tobytes()
    assert chooser.step(logits) is False
    np.testing.assert_array_equal(chooser.x(0), x)
    assert chooser.result(0).tobytes() == ended
    assert [chooser.tokens(row) for row in range(3)] == [(30,), (), (30, 30, 30)]
    assert chooser.step(logits) is False  # and once more with nobody in it


ROWS = [
    Asked(TIMED, max_tokens=8),
    Asked(PLAIN, max_tokens=3, temperature=0.7, seed=5),
    Asked(TIMED, max_tokens=6, temperature=1.0, seed=3_000_000_001),
    Asked(PLAIN, max_tokens=9, prompt=PROMPT[:1]),  # it says how probable it is that nobody speaks
]


def random_logits(seed: int) -> Logits:
    """(B, V), of which the end becomes more probable."""
    logits = np.random.default_rng(seed).normal(0.0, 3.0, (len(ROWS), SIZE)).astype(np.float32)
    logits[:, NO_TIMESTAMPS + 1 :] -= 2.0  # or all of them together beat every text
    logits[3, END] = 3.0 * seed
    return logits


def test_every_step_is_the_oracles(device: Device) -> None:
    chooser = Chooser.of(device)
    chooser.begin(ROWS)
    said: list[list[int]] = [[] for _ in ROWS]
    logs: list[list[float]] = [[] for _ in ROWS]
    going = set(range(len(ROWS)))
    for step in range(8):
        logits = random_logits(step)
        is_active = chooser.step(logits)
        for row in sorted(going):
            asked = ROWS[row]
            masked = mask_logits(logits[row], chooser.rules(asked), said[row])
            token, log = choose(masked, asked.temperature, asked.seed, len(said[row]))
            logs[row].append(log)
            if token != END:
                said[row].append(token)
            if token == END or len(said[row]) == asked.max_tokens:
                going.discard(row)
            else:
                place = chooser.positions[len(asked.prompt) - 1 + len(said[row])]
                np.testing.assert_array_equal(chooser.x(row), chooser.table[token] + place)
            assert chooser.tokens(row) == tuple(said[row])
            found = chooser.result(row)["logs"][: len(logs[row])]
            assert found == pytest.approx(logs[row], abs=1e-4)
        assert is_active is bool(going)
    assert not going
    times = [token for token in said[0] + said[2] if token > NO_TIMESTAMPS]
    assert 2 < len(times) < len(said[0] + said[2])
    share = softmax(random_logits(0)[3])[chooser.vocabulary.no_speech]
    assert chooser.result(3)["no_speech"] == pytest.approx(share, rel=1e-4)
    assert chooser.result(3)["has_ended"] == 1


def test_a_row_is_the_same_in_any_batch(device: Device) -> None:
    chooser = Chooser.of(device)
    results = []
    for rows in ([0, 1, 2, 3], [2, 0], [2]):
        chooser.begin([ROWS[row] for row in rows])
        for step in range(3):
            chooser.step(random_logits(step)[rows])
        results.append(chooser.result(rows.index(2)).copy())
    count = results[0]["num_tokens"]
    assert count == 3
    for result in results[1:]:
        for name in ("tokens", "logs"):
            np.testing.assert_array_equal(result[name][:count], results[0][name][:count])


def test_a_vocabulary_of_more_chunks_than_threads_is_refused(device: Device) -> None:
    with pytest.raises(ValueError, match="at most"):
        Chooser.of(device, CHUNK * CHOOSE_THREADS + 1)
