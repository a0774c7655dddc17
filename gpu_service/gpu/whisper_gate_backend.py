"""Whisper's engine as the gate sees it: audio in, states, decisions and times out.

Drives the parts of a service (whisper_parts.py), so that the whole way is checked: log-mel rows,
encoder, keys and values, decoder. `earwire build` examines what it has made by it, and a service
that finds its engine on another GPU does so again (whisper_open.py).
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..builder.manifest import EncoderKind
from ..decoding.whisper_rules import TokenRules
from .parakeet_audio import HostAudio
from .whisper_decoder import Request
from .whisper_encoder import WindowRows
from .whisper_parts import WhisperParts

Samples = NDArray[np.int16]


class WhisperDeviceBackend:
    """See WhisperBackend. No session may be open: it takes the first slots."""

    def __init__(self, name: EncoderKind, parts: WhisperParts) -> None:
        self.name = name
        self.batches = parts.encoder.batches
        self._parts = parts
        self._audio = HostAudio(parts.device, parts.store, parts.sizes.max_samples)

    def encode(self, batch: int, utterances: Sequence[Samples]) -> NDArray[np.float32]:
        """See WhisperBackend.encode."""
        self._parts.encoder.encode(self._windows(utterances), batch)
        states = self._parts.device.download(self._parts.encoder.states(batch))
        return np.asarray(states, np.float32)

    def decide(self, samples: Samples, prompts: Sequence[tuple[int, ...]]) -> list[int]:
        """See WhisperBackend.decide: prompts of one window, some side by side.

        Each row of a batch has its own keys and values, so each is encoded. Batches are as large as
        those of finals: what decides here are the kernels that decide there.
        """
        parts, size = self._parts, self._parts.final_batch
        rules = TokenRules(parts.vocabulary, timestamps=False)
        (window,) = self._windows([samples])
        chosen: list[int] = []
        for start in range(0, len(prompts), size):
            group = prompts[start : start + size]
            batch = parts.encoder.encode([window] * len(group))
            parts.decoder.decode(batch, [Request(prompt, rules, 1) for prompt in group])
            parts.device.synchronize()
            for said in parts.decoder.read(len(group)):
                chosen.append(said.tokens[0] if said.tokens else parts.vocabulary.end)
        return chosen

    def time_ms(self, batch: int, utterances: Sequence[Samples], num_runs: int) -> float:
        """See WhisperBackend.time_ms. The first run is not counted."""
        windows, times = self._windows(utterances), []
        device = self._parts.device
        for _ in range(num_runs + 1):
            start = device.record()
            self._parts.encoder.encode(windows, batch)
            end = device.record()
            device.wait(end)
            times.append(device.elapsed_ms(start, end))
        return statistics.median(times[1:])

    def is_graph(self, batch: int) -> bool:
        """See WhisperBackend.is_graph."""
        return self._parts.encoder.is_captured(batch)

    def _windows(self, utterances: Sequence[Samples]) -> list[WindowRows]:
        """Each utterance in a slot; equal objects share one."""
        store = self._parts.store
        slots: dict[int, int] = {}
        self._audio.begin()
        for each in utterances:
            if id(each) not in slots:
                slots[id(each)] = len(slots)
                store.reset(slots[id(each)])
                self._audio.add(slots[id(each)], each)
                self._audio.send()
        self._parts.device.synchronize()  # before the staged audio is written again
        return [self._parts.window(slots[id(each)]) for each in utterances]
