"""Turns on real speech: when they end, that nothing else changes, and how fast a finalize is."""

from __future__ import annotations

import time

import numpy as np
import pytest

from protocol.audio import RING_RATE_HZ
from protocol.client_messages import (
    EndOfTurn,
    Final,
    Hello,
    ServerMessage,
    SpeechStarted,
    VadOptions,
)

from . import audio
from .audio import Samples, words_of
from .server import Server
from .session import Stream, assert_sane, transcribe
from .test_together import COMPLETED, FORMAT, PREFIX, talking

PATIENCE_MS = 1_200
TURNS = VadOptions(end_of_turn_ms=PATIENCE_MS)


@pytest.fixture(scope="module")
def two_turns() -> Samples:
    """The clip, a silence, the clip, a silence; sentences are a short pause apart."""
    clip, silence = audio.demo_clip(), audio.silence(PATIENCE_MS / 1000 + 0.6)
    return np.concatenate([clip, silence, clip, silence])


def test_a_turn_ends_behind_the_final_of_its_last_utterance(
    server: Server, two_turns: Samples
) -> None:
    heard = transcribe(server.native_url, two_turns, hello=Hello(vad=TURNS))
    assert_sane(heard, len(two_turns))
    ends = heard.of(EndOfTurn)
    assert len(ends) == 2
    finals = {final.utterance: final for final in heard.finals}
    starts = {event.utterance: event.start_sample for event in heard.of(SpeechStarted)}
    for event in ends:
        assert heard.events.index(finals[event.utterance]) < heard.events.index(event)
        assert event.end_sample == finals[event.utterance].end_sample
        next_start = starts.get(event.utterance + 1, len(two_turns))
        assert next_start - event.end_sample > (PATIENCE_MS - 500) * RING_RATE_HZ // 1000
    in_between = [u for u in finals if u not in {event.utterance for event in ends}]
    assert len(finals) > 2, "the clip has pauses, which are no ends of turns"
    for utterance in in_between:
        gap = starts[utterance + 1] - finals[utterance].end_sample
        assert gap < PATIENCE_MS * RING_RATE_HZ // 1000


def test_turns_are_the_same_at_any_pace_and_change_no_final(server: Server) -> None:
    clip, silence = audio.demo_clip()[: 6 * RING_RATE_HZ], audio.silence(PATIENCE_MS / 1000 + 0.6)
    two_turns = np.concatenate([clip, silence, clip, silence])

    def ends(events: list[ServerMessage]) -> list[tuple[int, int]]:
        return [(e.utterance, e.end_sample) for e in events if isinstance(e, EndOfTurn)]

    hello = Hello(vad=TURNS)
    at_once = transcribe(server.native_url, two_turns, 1_000, hello)
    paced = transcribe(server.native_url, two_turns, 40, hello, realtime=True)
    unasked = transcribe(server.native_url, two_turns)
    assert ends(paced.events) == ends(at_once.events)
    assert len(ends(paced.events)) == 2
    assert ends(unasked.events) == []
    assert paced.identity() == at_once.identity() == unasked.identity()


def test_a_finalize_in_the_middle_of_speech_is_answered_while_the_turn_goes_on(
    server: Server,
) -> None:
    """Prints how long the answers took: a limit belongs into a benchmark."""
    speech = audio.without_pauses(audio.demo_clip())[: 8 * RING_RATE_HZ]
    clip = np.concatenate([speech, audio.silence(2.0)])
    took_ms: list[float] = []
    step = RING_RATE_HZ // 50
    with Stream(server.native_url, Hello(vad=TURNS)) as stream:
        begin_s = time.monotonic()
        for start in range(0, len(clip), step):
            stream.poll(begin_s + (start + step) / RING_RATE_HZ)
            stream.send(clip[start : start + step])
            if start and start % (2 * RING_RATE_HZ) == 0 and start < 7 * RING_RATE_HZ:
                asked_s = time.monotonic()
                finalize_id = stream.client.finalize()
                while (answer := stream.wait_event(Final)).finalize_id is None:
                    pass
                took_ms.append((time.monotonic() - asked_s) * 1e3)
                assert (answer.finalize_id, answer.end_sample) == (finalize_id, start + step)
                assert answer.text
        heard = stream.finish()
    (ended,) = heard.of(EndOfTurn)
    assert ended.utterance == max(final.utterance for final in heard.finals)
    encodes_ms = [
        (f.stages.device_done_ns - f.stages.batch_start_ns) / 1e6
        for f in heard.finals
        if f.finalize_id is not None
    ]
    assert len(took_ms) == len(encodes_ms) == 3
    print("finalize to answer, ms:", [round(ms) for ms in took_ms])
    print("of this recognition, ms:", [round(ms) for ms in encodes_ms])


def test_together_turns_begin_when_an_update_asks_for_them(server: Server) -> None:
    """Without voice activity detection first: an update brings it, and turns with it."""
    speech = np.concatenate([audio.demo_clip(), audio.silence(2.0)])
    detection = {"type": "server_vad", "eot_timeout_ms": PATIENCE_MS, "max_speech_duration_s": 30}
    with talking(server, FORMAT + "&turn_detection=none") as talker:
        talker.until("session.created")
        talker.append(speech)
        talker.until(PREFIX + "delta")  # this speech began before there were turns
        talker.say("transcription_session.updated", session={"turn_detection": detection})
        first = talker.until(COMPLETED)["transcript"]
        talker.append(speech)
        ended = talker.until(PREFIX + "end_of_turn")
    kinds = [message["type"].removeprefix(PREFIX) for message in talker.messages]
    assert kinds.count("start_of_turn") == kinds.count("end_of_turn") == 1
    texts = [message["transcript"] for message in talker.of(COMPLETED)]
    assert ended["transcript"] == " ".join(texts[1:])
    assert words_of(first)[:3] == words_of(ended["transcript"])[:3] == ["hello", "and", "welcome"]
