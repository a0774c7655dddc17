"""WhisperOracle: Whisper's encoder and greedy decoder in numpy, slow and obvious.

What kernels are compared with: float32, one window at a time, one token at a time, every step as
openai/whisper, whisper/model.py has it. It knows the arithmetic; whisper_rules.py knows which
tokens may follow, cpu/log_mel.py makes its input. For tests and checks, never for a service.

Shapes: M mel bands, T = 1500 positions, D width, H heads, E = D / H, V vocabulary, P tokens so far.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..weights.whisper_checkpoint import WhisperCheckpoint
from .whisper_rules import TokenRules, language_probabilities, only_time_may_follow
from .whisper_sampling import choose

NORM_EPSILON = np.float32(1e-5)
NEVER = np.float32(-np.inf)

Array = NDArray[np.float32]
KeysValues = tuple[Array, Array]  # (H, n, E) each


@dataclass(slots=True)
class TextState:
    """One decoding on its way."""

    cross: list[KeysValues]  # (H, T, E), a layer each: of the audio
    past: list[KeysValues]  # (H, P, E), a layer each
    # (H, n, T) a layer each, of the last step's n tokens: what its heads listened to
    attention: list[Array] = field(default_factory=list)

    @property
    def num_past(self) -> int:
        """P."""
        return int(self.past[0][0].shape[1])


@dataclass(frozen=True, slots=True)
class Decoded:
    """What greedy decoding said behind a prompt."""

    tokens: tuple[int, ...]  # without the end
    log_probabilities: tuple[float, ...]  # of the tokens, and of the end where it came
    no_speech: float
    ended: bool  # False: it had no room left

    @property
    def total(self) -> float:
        """Of the logarithms."""
        return float(sum(self.log_probabilities))


class WhisperOracle:
    """All of one model in memory."""

    def __init__(self, checkpoint: WhisperCheckpoint) -> None:
        self.config = checkpoint.config
        self.vocabulary = checkpoint.vocabulary
        self._weights = {name: checkpoint.tensor(name) for name in checkpoint.tensors}

    # ---------------------------------------------------------------- the audio

    def encode(self, mel: Array) -> Array:
        """(T, D) of (M, 2 T) log-mel features; fewer frames than 3000 give fewer positions."""
        x = gelu(self._convolve(mel.T, "encoder.conv1", stride=1))
        x = gelu(self._convolve(x, "encoder.conv2", stride=2))
        x = x + self._weights["encoder.embed_positions.weight"][: len(x)]
        for layer in range(self.config.encoder_layers):
            name = f"encoder.layers.{layer}"
            normed = self._norm(x, f"{name}.self_attn_layer_norm")
            keys_values = self._keys_values(normed, f"{name}.self_attn")
            x = x + self._attend(normed, f"{name}.self_attn", keys_values)[0]
            x = self._feed_forward(x, name)
        return self._norm(x, "encoder.layer_norm")

    def begin(self, states: Array) -> TextState:
        """A decoding that listens to (T, D) encoder output."""
        layers = range(self.config.decoder_layers)
        empty = np.zeros((self.config.num_heads, 0, self.config.head_width), np.float32)
        cross = [self._keys_values(states, f"decoder.layers.{i}.encoder_attn") for i in layers]
        return TextState(cross, [(empty, empty) for _ in layers])

    # ----------------------------------------------------------------- the text

    def step(self, state: TextState, tokens: Sequence[int]) -> Array:
        """Feed n tokens; returns (n, V) logits, of what may come behind each."""
        positions = self._weights["decoder.embed_positions.weight"]
        begin = state.num_past
        x = self._weights["decoder.embed_tokens.weight"][list(tokens)]
        x = x + positions[begin : begin + len(tokens)]
        state.attention = []
        for layer in range(self.config.decoder_layers):
            name = f"decoder.layers.{layer}"
            normed = self._norm(x, f"{name}.self_attn_layer_norm")
            new = self._keys_values(normed, f"{name}.self_attn")
            past = tuple(
                np.concatenate(p, axis=1) for p in zip(state.past[layer], new, strict=True)
            )
            state.past[layer] = (past[0], past[1])
            x = x + self._attend(normed, f"{name}.self_attn", state.past[layer], causal=True)[0]
            normed = self._norm(x, f"{name}.encoder_attn_layer_norm")
            heard, weights = self._attend(normed, f"{name}.encoder_attn", state.cross[layer])
            state.attention.append(weights)
            x = self._feed_forward(x + heard, name)
        x = self._norm(x, "decoder.layer_norm")
        return np.asarray(x @ self._weights["decoder.embed_tokens.weight"].T)

    def decode(
        self,
        states: Array,
        prompt: Sequence[int],
        rules: TokenRules,
        max_tokens: int,
        *,
        temperature: float = 0.0,
        seed: int = 0,
        watch: Callable[[TextState], None] = lambda state: None,
    ) -> Decoded:
        """What comes behind the prompt, at most `max_tokens` and what there are positions for.

        `watch` sees the state behind each step; the first one fed the whole prompt.
        """
        state = self.begin(states)
        logits = self.step(state, prompt)
        watch(state)
        no_speech = self._no_speech(logits, prompt)
        room = min(max_tokens, self.config.text_positions - len(prompt))
        tokens: list[int] = []
        logs: list[float] = []
        while len(tokens) < room:
            masked = mask_logits(logits[-1], rules, tokens)
            token, log_probability = choose(masked, temperature, seed, len(tokens))
            logs.append(log_probability)
            if token == self.vocabulary.end:
                return Decoded(tuple(tokens), tuple(logs), no_speech, True)
            tokens.append(token)
            if len(tokens) < room:
                logits = self.step(state, [token])
                watch(state)
        return Decoded(tuple(tokens), tuple(logs), no_speech, False)

    def detect(self, states: Array) -> dict[str, float]:
        """Each language's probability, the most probable first; empty for English-only models."""
        if not self.vocabulary.is_multilingual:
            return {}
        shares = softmax(self.step(self.begin(states), [self.vocabulary.start])[0])
        ids = self.vocabulary.languages.values()
        return language_probabilities(self.vocabulary, {i: float(shares[i]) for i in ids})

    def _no_speech(self, logits: Array, prompt: Sequence[int]) -> float:
        """Of <|nospeech|> behind <|startoftranscript|>, by the model's own probabilities."""
        at = list(prompt).index(self.vocabulary.start)
        return float(softmax(logits[at])[self.vocabulary.no_speech])

    # ---------------------------------------------------------------- the parts

    def _linear(self, x: Array, name: str) -> Array:
        bias = self._weights.get(f"{name}.bias")
        product = x @ self._weights[f"{name}.weight"].T
        return np.asarray(product if bias is None else product + bias)

    def _norm(self, x: Array, name: str) -> Array:
        mean = x.mean(axis=-1, keepdims=True)
        variance = ((x - mean) ** 2).mean(axis=-1, keepdims=True)
        normed = (x - mean) / np.sqrt(variance + NORM_EPSILON)
        return np.asarray(
            normed * self._weights[f"{name}.weight"] + self._weights[f"{name}.bias"], np.float32
        )

    def _convolve(self, x: Array, name: str, stride: int) -> Array:
        """(N, in) -> (N / stride, out): three taps, one row of zeros on each side."""
        weight = self._weights[f"{name}.weight"]  # (out, in, 3)
        padded = np.pad(x, ((1, 1), (0, 0)))
        rows = np.concatenate([padded[tap : len(x) + tap : stride] for tap in range(3)], axis=1)
        taps = weight.transpose(0, 2, 1).reshape(len(weight), -1)  # (out, 3 in)
        return np.asarray(rows @ taps.T + self._weights[f"{name}.bias"])

    def _heads(self, x: Array) -> Array:
        """(n, D) -> (H, n, E)."""
        return np.asarray(x.reshape(len(x), self.config.num_heads, -1).transpose(1, 0, 2))

    def _keys_values(self, x: Array, name: str) -> KeysValues:
        return (
            self._heads(self._linear(x, f"{name}.k_proj")),
            self._heads(self._linear(x, f"{name}.v_proj")),
        )

    def _attend(
        self, x: Array, name: str, keys_values: KeysValues, *, causal: bool = False
    ) -> tuple[Array, Array]:
        """(n, D) of what (n, D) hears, and (H, n, keys) how much of each key."""
        keys, values = keys_values
        scale = np.float32(self.config.head_width**-0.5)
        queries = self._heads(self._linear(x, f"{name}.q_proj") * scale)
        scores = queries @ keys.transpose(0, 2, 1)
        if causal:
            num_new, num_keys = scores.shape[1:]
            later = np.arange(num_keys) > np.arange(num_keys - num_new, num_keys)[:, None]
            scores[:, later] = NEVER
        weights = softmax(scores)
        heard = (weights @ values).transpose(1, 0, 2).reshape(len(x), -1)
        return self._linear(heard, f"{name}.out_proj"), weights

    def _feed_forward(self, x: Array, name: str) -> Array:
        hidden = self._norm(x, f"{name}.final_layer_norm")
        hidden = gelu(self._linear(hidden, f"{name}.fc1"))
        return np.asarray(x + self._linear(hidden, f"{name}.fc2"))


def mask_logits(logits: Array, rules: TokenRules, chosen: Sequence[int]) -> Array:
    """(V,) logits with -inf for what may not come behind `chosen`."""
    masked: Array = np.array(logits, np.float32)
    masked[list(rules.always())] = NEVER
    if not chosen:
        masked[list(rules.at_first())] = NEVER
    for banned in rules.banned(chosen):
        masked[banned.start : banned.stop] = NEVER
    if rules.timestamps:
        first = rules.vocabulary.first_timestamp
        top = float(masked.max())
        with np.errstate(divide="ignore"):
            total = top + float(np.log(np.exp(masked[first:].astype(np.float64) - top).sum()))
        if only_time_may_follow(total, float(masked[:first].max())):
            masked[:first] = NEVER
    return masked


def softmax(x: Array) -> Array:
    """Over the last axis."""
    exponentials = np.exp(x - x.max(axis=-1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=-1, keepdims=True))


def gelu(x: Array) -> Array:
    """x times the normal distribution's integral: by erf, not by tanh."""
    return np.asarray(x * (0.5 + 0.5 * erf(x * 0.7071067811865476)), np.float32)


def erf(x: Array) -> NDArray[np.float64]:
    """To 1.5e-7: Abramowitz and Stegun, 7.1.26."""
    wide = np.abs(x.astype(np.float64))
    t = 1.0 / (1.0 + 0.3275911 * wide)
    series = np.full_like(t, 1.061405429)
    for coefficient in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        series = series * t + coefficient
    return np.asarray(np.sign(x) * (1.0 - series * t * np.exp(-wide * wide)))
