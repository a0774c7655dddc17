"""The oracle says what transformers and CTranslate2 say, token by token."""

from __future__ import annotations

import functools
import json
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpu_service.cpu.log_mel import log_mel
from gpu_service.cpu.model_files import find_model
from gpu_service.decoding.whisper_oracle import TextState, WhisperOracle, erf
from gpu_service.decoding.whisper_rules import TokenRules, prompt_tokens, start_tokens
from gpu_service.weights.whisper_checkpoint import load_whisper
from tests.fixtures.whisper.random_checkpoint import write_folder
from tests.fixtures.whisper.signals import signal
from tests.gpu_service.speech import two_cities

GOLDEN: dict[str, list[dict[str, Any]]] = json.loads(
    (Path(__file__).parents[2] / "fixtures" / "whisper" / "golden.json").read_text()
)
NO_SPEECH_TOLERANCE = 1e-4  # relative
RANDOM = [(name, case) for name in ("multilingual", "english") for case in GOLDEN[name]]


@functools.cache
def random_oracle(name: str) -> WhisperOracle:
    with tempfile.TemporaryDirectory() as folder:
        path = write_folder(Path(folder), multilingual=name == "multilingual")
        return WhisperOracle(load_whisper(str(path)))


@functools.cache
def random_states(name: str, seconds: float, seed: int) -> np.ndarray[Any, Any]:
    oracle = random_oracle(name)
    return oracle.encode(log_mel(signal(seconds, seed), oracle.config.num_mels).padded())


@functools.cache
def tiny_en() -> WhisperOracle:
    return WhisperOracle(load_whisper("tiny.en"))


@functools.cache
def speech_states(begin_s: int, end_s: int) -> np.ndarray[Any, Any]:
    samples = two_cities()[begin_s * 16_000 : end_s * 16_000]
    return tiny_en().encode(log_mel(samples, 80).padded())


def assert_says(oracle: WhisperOracle, states: Any, case: dict[str, Any], max_tokens: int) -> None:
    rules = TokenRules(oracle.vocabulary, timestamps=case["timestamps"])
    decoded = oracle.decode(states, case["prompt"], rules, max_tokens)
    assert list(decoded.tokens) == case["tokens"]
    assert decoded.ended is case["ended"]
    assert decoded.no_speech == pytest.approx(case["no_speech"], rel=NO_SPEECH_TOLERANCE)


@pytest.mark.parametrize(("name", "case"), RANDOM)
def test_random_checkpoints_say_what_they_say_in_transformers(
    name: str, case: dict[str, Any]
) -> None:
    assert_says(random_oracle(name), random_states(name, case["seconds"], case["seed"]), case, 40)


@pytest.mark.parametrize("case", GOLDEN["tiny.en"][:2])
def test_real_speech_is_heard_as_transformers_hears_it(case: dict[str, Any]) -> None:
    assert_says(tiny_en(), speech_states(case["begin_s"], case["end_s"]), case, 200)


@pytest.mark.slow
@pytest.mark.parametrize("case", GOLDEN["tiny.en"][2:])
def test_more_real_speech_is_heard_as_transformers_hears_it(case: dict[str, Any]) -> None:
    assert_says(tiny_en(), speech_states(case["begin_s"], case["end_s"]), case, 200)


def test_real_speech_is_heard_as_ctranslate2_hears_it() -> None:
    import ctranslate2

    oracle = tiny_en()
    model = ctranslate2.models.Whisper(
        str(find_model("tiny.en").folder), device="cpu", compute_type="float32"
    )
    states = speech_states(0, 4)
    start = start_tokens(oracle.vocabulary, None)
    prompt = prompt_tokens(oracle.vocabulary, start, timestamps=True, text_positions=448)
    theirs = model.generate(
        ctranslate2.StorageView.from_array(np.ascontiguousarray(states[None])), [list(prompt)],
        beam_size=1, return_scores=True, return_no_speech_prob=True,
    )[0]  # fmt: skip
    decoded = oracle.decode(states, prompt, TokenRules(oracle.vocabulary, True), 200)
    assert list(decoded.tokens) == theirs.sequences_ids[0]
    assert decoded.total == pytest.approx(theirs.scores[0] * len(decoded.tokens), abs=0.01)
    assert decoded.no_speech == pytest.approx(theirs.no_speech_prob, rel=1e-3)


def test_tokens_at_once_or_one_by_one_give_the_same_logits() -> None:
    oracle, states = random_oracle("english"), random_states("english", 1.0, 0)
    tokens = [97, 106, 5, 6, 7]
    at_once = oracle.step(oracle.begin(states), tokens)
    state = oracle.begin(states)
    one_by_one = np.concatenate([oracle.step(state, [token]) for token in tokens])
    assert np.allclose(at_once, one_by_one, atol=1e-4)
    assert state.num_past == 5


def test_attention_to_the_audio_is_shown() -> None:
    oracle, states = random_oracle("english"), random_states("english", 1.0, 0)
    seen: list[TextState] = []
    rules = TokenRules(oracle.vocabulary, timestamps=True)
    decoded = oracle.decode(states, [97], rules, 3, watch=seen.append)
    assert len(seen) == len(decoded.tokens)
    weights = seen[0].attention
    assert [layer.shape for layer in weights] == [(2, 1, 1500)] * 2
    assert np.allclose(weights[0].sum(axis=-1), 1.0, atol=1e-5)


def test_a_prompt_that_fills_the_positions_leaves_no_room() -> None:
    oracle, states = random_oracle("english"), random_states("english", 1.0, 0)
    rules = TokenRules(oracle.vocabulary, timestamps=True)
    decoded = oracle.decode(states, [97] * 448, rules, 40)
    assert (decoded.tokens, decoded.ended) == ((), False)


def test_the_same_seed_says_the_same_at_any_temperature() -> None:
    oracle, states = random_oracle("english"), random_states("english", 1.0, 0)
    rules = TokenRules(oracle.vocabulary, timestamps=False)

    def said(seed: int) -> tuple[int, ...]:
        return oracle.decode(states, [97, 106], rules, 12, temperature=1.0, seed=seed).tokens

    assert said(1) == said(1) != said(2)


def test_languages_are_detected_where_there_are_some() -> None:
    shares = random_oracle("multilingual").detect(random_states("multilingual", 1.0, 0))
    assert set(shares) == {"en", "de", "fr"}
    assert sum(shares.values()) == pytest.approx(1.0)
    assert list(shares.values()) == sorted(shares.values(), reverse=True)
    assert random_oracle("english").detect(random_states("english", 1.0, 0)) == {}


def test_erf_is_right_to_single_precision() -> None:
    x = np.linspace(-4, 4, 401, dtype=np.float32)
    exact = [math.erf(float(value)) for value in x]
    assert np.abs(erf(x) - exact).max() < 2e-7
