"""One message of every type with every field away from its default.

Round trips, golden frames and the state table use these; a new message type without an example
fails the tests that count them.
"""

from __future__ import annotations

from protocol import client_messages as c
from protocol import service_messages as s
from protocol import supervisor_messages as p
from protocol.audio import Encoding
from protocol.errors import ErrorCode

VAD = c.VadOptions(
    enabled=False,
    threshold=0.25,
    min_speech_ms=96,
    min_silence_ms=480,
    speech_pad_ms=64,
    max_utterance_ms=20_000,
    end_of_turn_ms=1_200,
)
STAGES = c.Stages(receive_ns=1, enqueue_ns=2, batch_start_ns=3, device_done_ns=4, send_ns=5)
WORDS = (c.Word("two", 0, 3_200, 0.75), c.Word("villes…", 3_200, 16_000, 0.5))
TOKENS = (c.Token(17, 0, 2), c.Token(4_096, 2, 0))
LIMITS = c.Limits(
    max_utterance_ms=30_000, max_audio_bytes=65_536, ring_ms=35_000, idle_timeout_ms=60_000,
    resume_window_ms=30_000,
)  # fmt: skip

_CLIENT: tuple[c.Message, ...] = (
    c.Hello(
        token="s3cret",
        encoding=Encoding.PCM_F32LE,
        sample_rate_hz=48_000,
        channels=2,
        language="en",
        model="tiny.en",
        prompt="Earwire",
        hotwords=("Earwire", "Parakeet"),
        tokens=True,
        partials=False,
        hop_ms=320,
        vad=VAD,
        live=True,
        resumable=True,
        client="tests/1",
    ),
    c.Audio(client_offset=320, pcm=bytes(range(64))),
    c.Finalize(finalize_id=7),
    c.Ping(nonce=2**64 - 1),
    c.Bye(),
    c.Started(
        session_id="w0-e1-s7-g3",
        model="tiny.en",
        language="en",
        hop_ms=320,
        latency_class=c.LatencyClass.SLOW,
        limits=LIMITS,
        resume_token="0.w0-e1-s7-g3.c2VjcmV0",
    ),
    c.Watermark(client_samples=48_000, audio_received=16_000, audio_decoded=12_800),
    c.SpeechStarted(audio_received=9, audio_decoded=8, utterance=2, start_sample=7),
    c.SpeechStopped(audio_received=9, audio_decoded=8, utterance=2, end_sample=8),
    c.NonSpeech(audio_received=9, audio_decoded=8, start_sample=0, end_sample=7),
    c.Partial(
        audio_received=32_000,
        audio_decoded=16_000,
        utterance=2,
        start_sample=0,
        end_sample=16_000,
        stable="two ",
        volatile="villes…",
        stages=STAGES,
    ),
    c.Final(
        audio_received=32_000,
        audio_decoded=16_000,
        utterance=2,
        start_sample=0,
        end_sample=16_000,
        text="two villes…",
        words=WORDS,
        tokens=TOKENS,
        language="en",
        revised=True,
        finalize_id=7,
        stages=STAGES,
    ),
    c.Overflow(
        audio_received=9, audio_decoded=8, first_client_sample=48_000, num_client_samples=960
    ),
    c.Closed(
        reason="bye",
        client_samples=48_000,
        socket_samples=16_000,
        ring_samples=16_000,
        engine_samples=16_000,
        lost_samples=320,
    ),
    c.Error(code=ErrorCode.AT_CAPACITY, message="no free slot", retryable=True, retry_after_ms=500),
    c.Pong(nonce=2**64 - 1),
    c.Latency(latency_class=c.LatencyClass.FINALS_ONLY, hop_ms=640),
    c.EndOfTurn(audio_received=9, audio_decoded=8, utterance=2, end_sample=8),
    c.Resume(token="s3cret", resume_token="0.w0-e1-s7-g3.c2VjcmV0", events_received=17),
    c.Ack(events_received=2**64 - 1),
    # bye_received, which changes the state behind it, is tried in test_session_resume.py
    c.Resumed(
        session_id="w0-e1-s7-g3",
        client_samples=48_000,
        finalizes_received=2,
        latency_class=c.LatencyClass.SLOW,
        hop_ms=320,
    ),
)
CLIENT_MESSAGES: dict[c.MessageType, c.Message] = {m.TYPE: m for m in _CLIENT}

_SERVICE: tuple[s.ServiceMessage, ...] = (
    s.Open(
        slot=7,
        generation=3,
        session_id="w0-e1-s7-g3",
        first_sample=16_000,
        checkpoint=b"\x01state\xff",
        language="en",
        model="tiny.en",
        prompt="Earwire",
        hotwords=("Earwire", "Parakeet"),
        tokens=True,
        partials=False,
        hop_ms=320,
        vad=VAD,
        alone=True,
        was_admitted=True,
    ),
    s.Finalize(slot=7, generation=3, finalize_id=9, at_sample=32_000),
    s.Close(slot=7, generation=3, at_sample=32_000, reason="bye"),
    s.Configure(slot=7, generation=3, at_sample=24_000, vad=VAD),
    s.Leave(slot=7, generation=3, at_once=True),
    s.SpeechStarted(slot=7, generation=3, audio_decoded=8, utterance=2, start_sample=7),
    s.SpeechStopped(slot=7, generation=3, audio_decoded=8, utterance=2, end_sample=8),
    s.NonSpeech(slot=7, generation=3, audio_decoded=8, start_sample=0, end_sample=7),
    s.Partial(7, 3, 16_000, 2, 0, 16_000, stable="two ", volatile="villes…", stages=STAGES),
    s.Final(
        slot=7,
        generation=3,
        audio_decoded=16_000,
        utterance=2,
        start_sample=0,
        end_sample=16_000,
        text="two villes…",
        words=WORDS,
        tokens=TOKENS,
        language="en",
        revised=True,
        finalize_id=9,
        stages=STAGES,
    ),
    s.EndOfTurn(slot=7, generation=3, audio_decoded=8, utterance=2, end_sample=8),
    s.Credit(slot=7, generation=3, audio_decoded=16_000, released_sample=12_800),
    s.Checkpoint(
        slot=7, generation=3, version=1, sample=16_000, state=b"\x01state\xff", controls=5
    ),
    s.Pace(slot=7, generation=3, latency_class=c.LatencyClass.SLOW, hop_ms=900),
    s.StreamClosed(slot=7, generation=3, engine_samples=16_000),
    s.Left(slot=7, generation=3),
    s.StreamError(slot=7, generation=3, code=ErrorCode.INTERNAL, message="engine"),
    s.Health(
        now_ns=10**12,
        last_step_ns=10**12 - 1,
        step_ms=41.5,
        open_streams=3,
        link_streams=2,
        max_streams=64,
        hop_ms=320,
        max_utterance_ms=30_000,
        models=("tiny.en",),
        languages=("en",),
        bearable_streams=20,
        latency_class=c.LatencyClass.SLOW,
    ),
)
SERVICE_MESSAGES: dict[s.ServiceMessageType, s.ServiceMessage] = {m.TYPE: m for m in _SERVICE}
SAMPLES_RECORDS = (
    s.SamplesRecord(7, 3, 160_000, 3_200, 10**12),
    s.SamplesRecord(2**32 - 1, 2**32 - 1, 2**64 - 1, 2**32 - 1, 2**64 - 1),
)

SUPERVISOR_MESSAGES: tuple[p.SupervisorMessage, ...] = (
    p.Link(peer=1, epoch=4, rank=1, aliases=("tiny.en",), retiring=True),
    p.Unlinked(peer=1, epoch=4),
    p.Retire(peer=1, retiring=False, aliases=("tiny.en",)),
    p.Remaining(peer=1, num_streams=17),
    p.Handoff(worker=2),
    p.Drain(),
    p.Stop(),
    p.Ready(detail="first step 41 ms"),
    p.Alive(turn_ns=10**12),
    p.Stats((p.Sample("streams", (("dialect", "native"),), 3.0, "max"),)),
    p.Log(level="info", text="ready"),
    p.Access(
        revision=2,
        tokens=(p.Token("agents", bytes(range(32)), max_sessions=20, per_minute=None, column=7),),
        certificate_pem=b"-----BEGIN CERTIFICATE-----",
        key_pem=b"-----BEGIN PRIVATE KEY-----",
    ),
)
