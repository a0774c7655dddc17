"""DraftDecoder: greedy Whisper decoding that starts from what the last draft said.

A draft of a growing utterance repeats the draft before it and adds a word or two. So the tokens of
the last draft are checked in one pass (speculative decoding: kept as far as greedy decoding would
choose them) and only what follows is decoded step by step. The keys and values of the silence
behind the utterance come from a cache, as in whisper_encoder.py. Measured on one thread for 4 s of
speech: 20 to 35 ms instead of CTranslate2's 100.

Knows tokens and encoder output, no text; whisper.py calls it for drafts only: finals take
whisper_decode.py. Shapes as in draft_graph.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .ct2_weights import Ct2Weights
from .draft_graph import Head, build_cross, build_decoder
from .graph_builder import session
from .whisper_encoder import Array, Encoded, Padding
from .whisper_graph import EncoderShape, layer_names


@dataclass(frozen=True, slots=True)
class DraftTokens:
    """Tokens behind the prompt, and how probable each was when it was chosen."""

    tokens: tuple[int, ...]
    probabilities: tuple[float, ...]  # 0..1, as many
    scores: Array | None = None  # (S, A, N): of aligned heads at the steps that chose them


@dataclass(slots=True)
class _Progress:
    """One decoding on its way."""

    past: list[Array]  # (1, H, P, E), 2 a layer
    num_past: int  # P
    tokens: list[int]
    probabilities: list[float]
    scores: list[Array] = field(default_factory=list)  # (A, N) of each token

    def take(self, token: int, probability: float, scores: Array) -> None:
        """A token, and what was listened to when it was chosen."""
        self.tokens.append(token)
        self.probabilities.append(probability)
        self.scores.append(scores)


class DraftDecoder:
    """Runs the decoder of one model; several threads may call it."""

    def __init__(
        self,
        weights_path: Path,
        shape: EncoderShape,
        *,
        end: int,
        suppressed: Sequence[int],
        suppressed_first: Sequence[int],
        num_threads: int,
        aligned: Sequence[Head] = (),
    ) -> None:
        """Build the graphs. Raises ModelFileError.

        Args:
            end: the token that ends the text.
            suppressed: tokens that never come out, `suppressed_first` not as the first.
            aligned: heads whose scores are wanted.
        """
        weights = Ct2Weights(weights_path, "decoder/")
        graph = build_decoder(weights, shape, end, suppressed, aligned)
        self._is_aligned = bool(aligned)
        self._decoder: Any = session(graph, num_threads, has_arena=False)
        self._cross: Any = session(build_cross(weights, shape), num_threads, has_arena=False)
        self._names = layer_names(shape.num_layers)
        self._no_past: list[Array] = [
            np.zeros((1, shape.num_heads, 0, shape.head_width), np.float32)
        ] * len(self._names)
        self._end = end
        self._suppressed_first = frozenset(suppressed_first)

    def decode(
        self,
        encoded: Encoded,
        prompt: Sequence[int],
        forced: Sequence[int],
        guess: Sequence[int],
        max_tokens: int,
    ) -> DraftTokens:
        """The most probable continuation of `prompt` and `forced`.

        Args:
            prompt: up to and with <|notimestamps|>.
            forced: text tokens that the result begins with.
            guess: text tokens that may follow: they save time where they are right.
            max_tokens: of the result, forced ones included.
        """
        audio = {f"cross_{n}": a for n, a in zip(self._names, self._audio(encoded), strict=True)}
        progress = _Progress(self._no_past, 0, [], [])
        known = [*forced, *guess]
        top, logs, scores = self._run(progress, [*prompt, *known], audio)
        # Row i of what matters ranks what comes behind the prompt and i known tokens.
        first = len(prompt) - 1
        top, logs, scores = top[first:], logs[first:], scores[first:]
        choice, probability = self._keep_known(progress, top, logs, known, len(forced))
        num_kept = len(progress.tokens)
        progress.scores, listened = list(scores[:num_kept]), scores[num_kept]
        progress.num_past = len(prompt) + len(progress.tokens)
        progress.past = [a[:, :, : progress.num_past] for a in progress.past]
        while choice != self._end and len(progress.tokens) < max_tokens:
            progress.take(choice, probability, listened)
            top, logs, scores = self._run(progress, [choice], audio)
            listened = scores[0]
            choice, probability = self._choose(top[0], logs[0], is_first=False)
        heard = None
        if self._is_aligned and progress.scores:
            heard = np.stack(progress.scores)
        return DraftTokens(tuple(progress.tokens), tuple(progress.probabilities), heard)

    def _keep_known(
        self,
        progress: _Progress,
        top: NDArray[np.int64],
        logs: Array,
        known: list[int],
        num_forced: int,
    ) -> tuple[int, float]:
        """Take the forced tokens and the guesses that are right; return the choice after them."""
        for index, token in enumerate(known):
            choice, probability = self._choose(top[index], logs[index], is_first=index == 0)
            if index >= num_forced and choice != token:
                return choice, probability
            found = logs[index][top[index] == token]
            progress.tokens.append(token)
            progress.probabilities.append(float(np.exp(found[0])) if len(found) else 0.0)
        return self._choose(top[len(known)], logs[len(known)], is_first=not known)

    def _choose(self, top: NDArray[np.int64], logs: Array, *, is_first: bool) -> tuple[int, float]:
        for token, log in zip(top.tolist(), logs.tolist(), strict=True):
            if not is_first or token not in self._suppressed_first:
                return token, float(np.exp(log))
        return self._end, 0.0

    def _run(
        self, progress: _Progress, tokens: list[int], audio: dict[str, Array]
    ) -> tuple[NDArray[np.int64], Array, Array]:
        """Feed tokens; return the ranks behind each, (T, 3) tokens and log probabilities, and
        (T, A, N) scores of the aligned heads.
        """
        inputs: dict[str, NDArray[Any]] = {
            "tokens": np.array([tokens], np.int64),
            "num_past": np.array([progress.num_past], np.int64),
            **audio,
        }
        for name, past in zip(self._names, progress.past, strict=True):
            inputs[f"past_{name}"] = past
        top, logs, *others = self._decoder.run(None, inputs)
        progress.past, scores = others[: len(self._names)], others[len(self._names) :]
        progress.num_past += len(tokens)
        heads = [layer[0].transpose(1, 0, 2) for layer in scores]
        listened = np.concatenate(heads, axis=1) if heads else np.zeros((len(tokens), 0, 0))
        return top[0], logs[0], np.asarray(listened, np.float32)

    def _audio(self, encoded: Encoded) -> list[Array]:
        """Keys and values of the whole window, (1, H, 1500, E), 2 a layer."""
        if encoded.padding is None:
            return self._project(encoded.states)
        computed = self._project(encoded.states[:, : encoded.num_computed])
        whole = []
        for array, padding in zip(computed, self.prepare(encoded.padding), strict=True):
            joined = padding.copy()
            joined[:, :, : encoded.num_computed] = array
            whole.append(joined)
        return whole

    def prepare(self, padding: Padding) -> list[Array]:
        """The keys and values of a window of padding, projected once and kept with it."""
        if padding.cross is None:
            padding.cross = self._project(padding.states)
        return padding.cross

    def _project(self, states: Array) -> list[Array]:
        projected: list[Array] = self._cross.run(None, {"states": states})
        return projected
