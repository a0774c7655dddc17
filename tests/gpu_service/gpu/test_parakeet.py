"""The GPU recognizer on a tiny random checkpoint: finals are the CPU's, token for token, in any
pieces, beside any neighbours and across cuts; drafts are the CPU's too; slots are used again.
"""

from __future__ import annotations

import gc
import weakref
from collections import Counter
from typing import Any

import numpy as np
import pytest

from gpu_service.cpu.parakeet_drafts import Increment, IncrementalDraft
from gpu_service.cpu.parakeet_features import MelStream
from gpu_service.decoding.tokens import FRAME_SAMPLES
from gpu_service.errors import RecognizerError
from gpu_service.gpu.device import Device
from gpu_service.gpu.gemm import Gemms
from gpu_service.gpu.parakeet import GpuParakeetRecognizer
from gpu_service.gpu.parakeet_settings import GpuParakeetSettings
from gpu_service.recognizer import DeviceRecognizer, SessionOptions, StepInput, Want
from tests.fixtures.parakeet.signals import golden_signal, signal
from tests.gpu_service.cpu.test_parakeet import (
    NOTHING,
    golden,
    listed,
    speech,
    to_int16,
)

from .emulator import EmulatedDevice, EmulatedGemms
from .parakeet_rig import (
    SMALL,
    assert_alike,
    cpu_recognizer,
    drafts,
    final,
    gpu_recognizer,
    make_recognizer,
    one,
)


@pytest.fixture
def recognizer(device: Device, gemms: Gemms) -> GpuParakeetRecognizer:
    return gpu_recognizer(device, gemms)


@pytest.fixture
def windowed(device: Device, gemms: Gemms) -> GpuParakeetRecognizer:
    return gpu_recognizer(device, gemms, draft="window", window_frames=25)


# Finals


@pytest.mark.parametrize("name", ["signal_0_5s", "signal_1s", "signal_3_2s", "signal_7_77s"])
def test_finals_are_the_references_tokens(recognizer: GpuParakeetRecognizer, name: str) -> None:
    samples = to_int16(golden_signal(name))
    answer = final(recognizer, samples)
    assert listed(answer) == golden(name)
    assert_alike(answer, final(cpu_recognizer(), samples))


@pytest.mark.parametrize("want", [Want.NOTHING, Want.DRAFT, Want.CANDIDATE])
def test_no_chunking_and_no_draft_changes_a_final(
    recognizer: GpuParakeetRecognizer, want: Want
) -> None:
    samples = speech()[16_000:40_000]
    whole = final(recognizer, samples)
    for cuts in ([700, 9_000, 9_001, 20_000], [1_599], [1_600, 16_000]):
        assert final(recognizer, samples, cuts, want) == whole


def test_a_candidate_is_the_final(recognizer: GpuParakeetRecognizer) -> None:
    samples = speech()[16_000:40_000]
    handle = recognizer.open(SessionOptions())
    candidate = one(recognizer, StepInput(handle, samples, Want.CANDIDATE))
    assert one(recognizer, StepInput(handle, NOTHING, Want.FINAL)) is candidate
    assert candidate == final(recognizer, samples)
    again = one(recognizer, StepInput(handle, samples[:20_000], Want.FINAL))
    assert again == final(recognizer, samples[:20_000])
    recognizer.close(handle)


@pytest.mark.parametrize("count", [1, 3, 8])
def test_neighbours_in_a_batch_change_nothing(
    recognizer: GpuParakeetRecognizer, count: int
) -> None:
    """Of other lengths, so that they are in other buckets; drafts and finals in one step."""
    audio = [to_int16(signal(0.3 + 0.4 * n, n))[: 8_000 + 5_000 * n] for n in range(count)]
    handles = [recognizer.open(SessionOptions()) for _ in audio]
    for piece in range(2):
        recognizer.step(
            [
                StepInput(h, np.array_split(a, 3)[piece], Want.DRAFT)
                for h, a in zip(handles, audio, strict=True)
            ]
        )
    rest = [np.array_split(a, 3)[2] for a in audio]
    wants = [Want.FINAL if i % 2 == 0 else Want.DRAFT for i in range(count)]
    batch = [StepInput(h, r, w) for h, r, w in zip(handles, rest, wants, strict=True)]
    answers = recognizer.step(batch)
    odd = [StepInput(h, NOTHING, Want.FINAL) for h in handles[1::2]]
    answers[1::2] = recognizer.step(odd)
    for handle in handles:
        recognizer.close(handle)
    assert answers == [final(recognizer, samples) for samples in audio]


def test_samples_are_read_in_place_where_memory_was_registered(
    recognizer: GpuParakeetRecognizer,
) -> None:
    samples = speech()[:30_000]
    arena = np.zeros(100_000, np.int16)
    arena[40_001:70_001] = samples
    recognizer.register(memoryview(arena).cast("B"))
    handle = recognizer.open(SessionOptions())
    answers = [
        one(recognizer, StepInput(handle, arena[40_001 + first : 40_001 + stop], want))
        for first, stop, want in ((0, 11_111, Want.DRAFT), (11_111, 30_000, Want.FINAL))
    ]
    recognizer.close(handle)
    recognizer.unregister(memoryview(arena).cast("B"))
    assert answers[1] == final(recognizer, samples)


def test_more_samples_than_the_staging_memory_holds(recognizer: GpuParakeetRecognizer) -> None:
    samples = speech()[: 2 * recognizer.settings.staging_samples + 1_000]
    assert final(recognizer, samples) == final(
        recognizer, samples, range(1_000, len(samples), 9_000)
    )


# Cuts


def test_cut_utterances_are_the_cpus(recognizer: GpuParakeetRecognizer) -> None:
    samples = speech()[:64_000]
    cut = 22 * FRAME_SAMPLES
    for context in (cut, 10 * FRAME_SAMPLES):
        pairs = []
        for each in (recognizer, cpu_recognizer()):
            first = final(each, samples, right_samples=len(samples) - cut)
            second = final(each, samples[cut - context :], left_samples=context, carry=first.carry)
            pairs.append((first, second))
        for answer, expected in zip(*pairs, strict=True):
            assert_alike(answer, expected)
    whole = listed(final(recognizer, samples))
    first = final(recognizer, samples, right_samples=len(samples) - cut)
    second = final(recognizer, samples, left_samples=cut, carry=first.carry)
    assert listed(first) + [(i, frame + 22, d) for i, frame, d in listed(second)] == whole


def test_a_state_goes_from_one_engine_to_the_other(recognizer: GpuParakeetRecognizer) -> None:
    samples = speech()[:64_000]
    cut = 22 * FRAME_SAMPLES
    carries = [
        final(each, samples, right_samples=len(samples) - cut).carry
        for each in (recognizer, cpu_recognizer())
    ]
    answers = [
        final(each, samples, left_samples=cut, carry=carry)
        for each in (recognizer, cpu_recognizer())
        for carry in carries
    ]
    for answer in answers:
        assert_alike(answer, answers[0])


def test_a_carry_of_another_model_begins_anew(recognizer: GpuParakeetRecognizer) -> None:
    samples = speech()[:16_000]
    assert final(recognizer, samples, carry=b"\1\1\1\0") == final(recognizer, samples)


def test_a_final_at_a_cut_is_no_candidate_of_the_same_samples(
    recognizer: GpuParakeetRecognizer,
) -> None:
    samples = speech()[:40_000]
    right = 15_040
    handle = recognizer.open(SessionOptions())
    one(recognizer, StepInput(handle, samples, Want.CANDIDATE))
    answer = one(recognizer, StepInput(handle, NOTHING, Want.FINAL, right_samples=right))
    recognizer.close(handle)
    assert answer == final(recognizer, samples, right_samples=right)
    assert answer.carry


# Drafts


class RenormalisedDraft(IncrementalDraft):
    """The CPU's, whose rows before an increment are normalised as the new ones are."""

    def next_increment(self, mel: MelStream) -> Increment:
        if self.cache.next_frame:
            self.cache.mel_tail = mel.features(8 * self.cache.next_frame - 8)[:8]
        return super().next_increment(mel)


@pytest.mark.parametrize("hop", [2_560, 5_120, 12_800])
def test_incremental_drafts_are_the_cpus(
    recognizer: GpuParakeetRecognizer, monkeypatch: pytest.MonkeyPatch, hop: int
) -> None:
    monkeypatch.setattr("gpu_service.cpu.parakeet.IncrementalDraft", RenormalisedDraft)
    samples = speech()[:70_000]
    pairs = zip(
        drafts(recognizer, samples, hop), drafts(cpu_recognizer(), samples, hop), strict=True
    )
    for answer, expected in pairs:
        assert_alike(answer, expected)


def test_window_drafts_are_the_cpus(windowed: GpuParakeetRecognizer) -> None:
    samples = speech()[:90_000]
    cpu = cpu_recognizer(draft="window", window_frames=25)
    pairs = list(zip(drafts(windowed, samples, 9_000), drafts(cpu, samples, 9_000), strict=True))
    for answer, expected in pairs:
        assert_alike(answer, expected)
    assert len(pairs[-1][0].tokens) > 10
    assert final(windowed, samples, [9_000, 50_000], Want.DRAFT) == final(windowed, samples)


def test_drafts_behind_a_cut_are_the_cpus(
    recognizer: GpuParakeetRecognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpu_service.cpu.parakeet.IncrementalDraft", RenormalisedDraft)
    samples = speech()[:64_000]
    cut = 22 * FRAME_SAMPLES
    carry = final(cpu_recognizer(), samples, right_samples=len(samples) - cut).carry
    context: dict[str, Any] = {"left_samples": cut, "carry": carry}
    pairs = zip(
        drafts(recognizer, samples, 16_000, **context),
        drafts(cpu_recognizer(), samples, 16_000, **context),
        strict=True,
    )
    for answer, expected in pairs:
        assert_alike(answer, expected)
        assert all(token.frame >= 0 for token in answer.tokens)


def test_drafts_that_paused_catch_up_in_pieces(recognizer: GpuParakeetRecognizer) -> None:
    """One draft of 22 s at once: three runs of the encoder, the first two of them whole pieces."""
    samples = to_int16(golden_signal("signal_30s"))[: recognizer.max_utterance_samples]
    (draft,) = drafts(recognizer, samples, len(samples))
    (expected,) = drafts(cpu_recognizer(), samples, len(samples))
    assert_alike(draft, expected)
    assert draft.tokens[-1].frame > 250


# Edges


@pytest.mark.parametrize("num_samples", [0, 1, 159, 160, 320, 1_599, 1_600])
def test_short_utterances(recognizer: GpuParakeetRecognizer, num_samples: int) -> None:
    samples = speech()[24_000 : 24_000 + num_samples]
    expected = final(cpu_recognizer(), samples)
    assert_alike(final(recognizer, samples), expected)
    assert_alike(final(recognizer, samples, want=Want.DRAFT), expected)


def test_a_short_candidate_may_go_on(recognizer: GpuParakeetRecognizer) -> None:
    samples = speech()[24_000:34_000]
    handle = recognizer.open(SessionOptions())
    for start, stop in ((0, 500), (500, 1_200), (1_200, 4_000)):
        candidate = one(recognizer, StepInput(handle, samples[start:stop], Want.CANDIDATE))
        assert candidate == final(recognizer, samples[:stop])
    answer = one(recognizer, StepInput(handle, samples[4_000:], Want.FINAL))
    recognizer.close(handle)
    assert answer == final(recognizer, samples)


def test_what_is_refused(recognizer: GpuParakeetRecognizer) -> None:
    with pytest.raises(RecognizerError, match="are allowed"):
        final(recognizer, np.zeros(recognizer.max_utterance_samples + 1, np.int16))
    with pytest.raises(RecognizerError, match="whole frames"):
        final(recognizer, speech()[:5_000], left_samples=100)
    for call in (recognizer.close, lambda h: recognizer.step([StepInput(h, NOTHING, Want.DRAFT)])):
        with pytest.raises(RecognizerError, match="no session"):
            call(999_999)
    for handle in list(recognizer._sessions):
        recognizer.close(handle)


def test_as_many_sessions_as_there_are_slots(recognizer: GpuParakeetRecognizer) -> None:
    handles = [recognizer.open(SessionOptions()) for _ in range(recognizer.settings.num_slots)]
    with pytest.raises(RecognizerError, match="are taken"):
        recognizer.open(SessionOptions())
    for handle in handles:
        recognizer.close(handle)


def test_hotwords_pull_their_phrase_in(device: Device, gemms: Gemms) -> None:
    strong = gpu_recognizer(device, gemms, hotword_weight=50.0)
    samples = speech()[:48_000]
    plain = final(strong, samples)
    options = SessionOptions(hotwords=(plain.words[3].text + " " + plain.words[1].text,))
    boosted = final(strong, samples, options=options)
    expected = final(cpu_recognizer(hotword_weight=50.0), samples, options=options)
    assert_alike(boosted, expected)
    assert boosted.text != plain.text
    assert final(strong, samples) == plain  # the slot's next session has none


# The device


class CountingDevice(EmulatedDevice):
    """Counts what is allocated, and when the host waits for what was not done before. Runs all of
    it as late as it may.
    """

    def __init__(self) -> None:
        super().__init__(deferred=True)
        self.calls: Counter[str] = Counter()

    def empty(self, *arguments: Any) -> Any:
        self.calls["allocations"] += 1
        return super().empty(*arguments)

    def pinned(self, *arguments: Any) -> Any:
        self.calls["allocations"] += 1
        return super().pinned(*arguments)

    def wait(self, event: Any) -> None:
        self.calls["waits"] += event.reached_s is None
        super().wait(event)

    def synchronize(self) -> None:
        self.calls["waits"] += 1
        super().synchronize()


@pytest.fixture(scope="module")
def late() -> tuple[GpuParakeetRecognizer, CountingDevice]:
    device = CountingDevice()
    settings = GpuParakeetSettings(
        **{**SMALL, "max_streams": 2, "final_frames": (16, 40), "draft_rows": 32}
    )
    return make_recognizer(device, EmulatedGemms(device), settings), device


def test_two_hundred_sessions_use_the_same_slots(
    late: tuple[GpuParakeetRecognizer, CountingDevice],
) -> None:
    """Nothing is allocated after warm-up, and nothing of the session before is left in a slot."""
    recognizer, device = late
    samples = speech()[16_000:22_000]
    expected = final(recognizer, samples, [3_000], Want.DRAFT)
    device.calls.clear()
    for number in range(200):
        if number % 20 == 0:
            assert final(recognizer, samples, [3_000], Want.DRAFT) == expected
            continue
        handle = recognizer.open(SessionOptions())
        recognizer.step([StepInput(handle, samples[number:], Want.NOTHING)])
        recognizer.close(handle)
    assert device.calls["allocations"] == 0


def test_a_step_waits_once(late: tuple[GpuParakeetRecognizer, CountingDevice]) -> None:
    recognizer, device = late
    assert isinstance(recognizer, DeviceRecognizer)
    samples = speech()[16_000:40_000]
    expected = final(recognizer, samples[:20_000])
    first, second = (recognizer.open(SessionOptions()) for _ in range(2))
    recognizer.step([StepInput(first, samples[:20_000], Want.DRAFT)])
    device.calls.clear()
    running = recognizer.begin(
        [
            StepInput(first, NOTHING, Want.FINAL),
            StepInput(second, samples[:8_000].copy(), Want.DRAFT),
        ]
    )
    assert device.calls["waits"] == 0
    recognizer.wait(running)
    answers = recognizer.finish(running)
    assert device.calls["waits"] == 1
    assert answers[0] == expected
    recognizer.close(first)
    recognizer.close(second)


def test_a_session_may_be_closed_and_its_slot_given_away_while_a_step_runs(
    late: tuple[GpuParakeetRecognizer, CountingDevice],
) -> None:
    recognizer, _ = late
    samples = speech()[16_000:40_000]
    expected = [final(recognizer, samples[:20_000]), final(recognizer, samples[4_000:12_000])]
    gone, kept = (recognizer.open(SessionOptions()) for _ in range(2))
    running = recognizer.begin(
        [
            StepInput(gone, samples[:9_000], Want.DRAFT),
            StepInput(kept, samples[:20_000], Want.FINAL),
        ]
    )
    recognizer.close(gone)
    heir = recognizer.open(SessionOptions())
    recognizer.wait(running)
    answers = recognizer.finish(running)
    assert answers[1] == expected[0]
    assert one(recognizer, StepInput(heir, samples[4_000:12_000], Want.FINAL)) == expected[1]
    recognizer.close(heir)
    recognizer.close(kept)


def test_a_step_that_is_refused_changes_nothing(recognizer: GpuParakeetRecognizer) -> None:
    """Neither its own sessions nor, with audio that is left over, those of the next step."""
    samples = speech()[16_000:40_000]
    expected = final(recognizer, samples)
    one_of_it, other = (recognizer.open(SessionOptions()) for _ in range(2))
    too_many = np.zeros(recognizer.max_utterance_samples * 2, np.int16)
    with pytest.raises(RecognizerError, match="are allowed"):
        recognizer.begin(
            [StepInput(one_of_it, samples, Want.DRAFT), StepInput(other, too_many, Want.DRAFT)]
        )
    for handle in (other, one_of_it):
        assert one(recognizer, StepInput(handle, samples, Want.FINAL)) == expected
        recognizer.close(handle)


def test_what_a_step_leaves_needs_no_garbage_collection(recognizer: GpuParakeetRecognizer) -> None:
    handle = recognizer.open(SessionOptions())
    running = recognizer.begin([StepInput(handle, speech()[:16_000], Want.DRAFT)])
    drafts_of_it = weakref.ref(running.drafts)
    recognizer.wait(running)
    recognizer.finish(running)
    gc.disable()
    try:
        del running
        assert drafts_of_it() is None
    finally:
        gc.enable()
    recognizer.close(handle)


def test_the_next_step_may_run_while_one_is_finished(
    late: tuple[GpuParakeetRecognizer, CountingDevice],
) -> None:
    """What the first one found is not overwritten, and changes nothing in the second."""
    recognizer, _ = late
    samples = speech()[16_000:40_000]
    expected = [drafts(recognizer, samples[n:][:12_000], 6_000) for n in (0, 3_000)]
    handles = [recognizer.open(SessionOptions()) for _ in range(2)]
    found: list[list[Any]] = [[], []]
    before = None
    for number in range(4):
        which, start = number % 2, 6_000 * (number // 2)
        piece = samples[3_000 * which :][start : start + 6_000]
        running = recognizer.begin([StepInput(handles[which], piece, Want.DRAFT)])
        if before is not None:
            found[1 - which] += recognizer.finish(before)
        recognizer.wait(running)
        before = running
    found[1] += recognizer.finish(before)
    for handle in handles:
        recognizer.close(handle)
    assert found == expected


def test_warm_up_makes_every_bucket(late: tuple[GpuParakeetRecognizer, CountingDevice]) -> None:
    late[0].warm_up()
