"""faults.py's bookkeeping: what it compares, counts and calls a problem. The faults are its own."""

from __future__ import annotations

import asyncio
import io
import os
import random
import signal
import wave

import pytest

from bench import fault_kinds
from bench.audio_source import Recording
from bench.fault_kinds import KINDS, WEIGHTS, Scene, wav_of
from bench.fault_streams import Player, Tally, finals_of
from bench.faults import Outcome
from bench.process_watch import held_by, living, names_in_shm
from protocol.client_messages import Closed, Final, ServerMessage, VadOptions, Watermark

SPEECH = Recording("clip", bytes(3_200), ())


def final(text: str, end: int = 1_600) -> Final:
    return Final(
        audio_received=end,
        audio_decoded=end,
        utterance=0,
        start_sample=0,
        end_sample=end,
        text=text,
    )


def closed(engine: int = 1_600) -> Closed:
    return Closed(
        reason="client", client_samples=1_600, socket_samples=1_600, ring_samples=1_600,
        engine_samples=engine,
    )  # fmt: skip


def judged(*events: ServerMessage) -> Tally:
    tally = Tally()
    Player("", SPEECH, [("one", 0, 1_600)], VadOptions(), tally)._judge(events)
    return tally


def test_sessions_are_held_to_the_finals_without_faults() -> None:
    assert finals_of([final("one"), closed()]) == [("one", 0, 1_600)]
    assert judged(final("one"), closed()) == Tally(equal=1)
    for wrong in ([final("two")], [], [final("one"), final("one")], [final("one", 1_599)]):
        assert len(judged(*wrong, closed()).differing) == 1
    assert "1 of 1 finals; final 0: [('two'" in judged(final("two"), closed()).differing[0]


def test_counts_are_compared() -> None:
    assert judged(final("one"), closed(engine=1_599)).mismatches
    assert not judged(final("one"), closed()).mismatches


def test_a_pause_ends_with_what_was_said_behind_the_fault() -> None:
    tally = Tally()
    player = Player("", SPEECH, [], VadOptions(), tally)
    player.fault("service_kill")
    assert not player.is_waiting  # nothing was streaming
    player._is_streaming, player._num_sent = True, 800
    player.fault("service_kill")
    player._notice(Watermark(0, 0, 800).audio_decoded)
    assert player.is_waiting
    player._notice(801)
    assert not player.is_waiting
    assert len(tally.pauses_s["service_kill"]) == 1


def test_a_session_begins_when_its_audio_is_taken() -> None:
    """Before, a full server may tell it to come again; nothing else may happen to it."""
    tally = Tally()
    player = Player("", SPEECH, [], VadOptions(), tally)
    player._note_end("at_capacity")
    player._is_streaming = True
    player._note_end("at_capacity")
    assert tally.refused == {"at_capacity": 1, "at_capacity at its first audio": 1}
    player._note_end("service_lost")
    player._is_taken, player._num_sent = True, 32_000
    player.fault("service_kill")
    player._note_end("at_capacity")
    assert tally.ended == {
        "service_lost 0 s behind its start, no fault": 1,
        "at_capacity 2 s behind its start, service_kill": 1,
    }


def test_what_is_a_problem() -> None:
    good = Outcome(Tally(equal=3))
    assert good.problems == []
    cut_off = Tally(equal=3, ended={"ConnectionLost": 2})
    for kind in ("worker_kill", "service_kill"):
        assert Outcome(cut_off, injected={kind: 1}).problems == [
            "2 sessions ended by ConnectionLost"
        ]
    assert Outcome(Tally(equal=3, outages=2), injected={"worker_kill": 1}).problems == []
    assert Outcome(Tally()).problems == ["no session came to its end"]
    assert len(Outcome(Tally(equal=1, differing=["x"] * 9), left=["y"]).problems) == 6


def test_every_kind_is_drawn() -> None:
    assert set(KINDS) == set(WEIGHTS)
    assert all(kind.__doc__ for kind in KINDS.values())


def test_signals_go_to_a_child_of_the_role(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(fault_kinds.os, "kill", lambda pid, number: sent.append((pid, number)))
    monkeypatch.setattr(Scene, "pids", lambda scene, role: (7,) if role == "service" else ())
    scene = Scene(1, 1, "", b"", random.Random(1), 1.0)
    asyncio.run(KINDS["service_kill"](scene))
    asyncio.run(KINDS["worker_kill"](scene))  # there is none
    assert sent == [(7, signal.SIGKILL)]


def test_the_file_for_a_full_disk_is_one() -> None:
    with wave.open(io.BytesIO(wav_of(bytes(range(200))))) as reader:
        assert (reader.getnchannels(), reader.getframerate()) == (1, 16_000)
        assert reader.readframes(1_000) == bytes(range(200))


def test_what_a_process_holds() -> None:
    held = held_by(os.getpid())
    assert sum(held.private_bytes.values()) > 1 << 20
    assert sum(held.fds.values()) >= 3
    assert any(os.getpid() in pids for pids in held.pids.values())
    assert living([os.getpid(), 2**22 + 1]) == [os.getpid()]
    assert all("earwire" in name for name in names_in_shm())
    with pytest.raises(ProcessLookupError):
        held_by(2**22 + 1)
