"""Client events repeat the service's facts and add the stream's counters."""

from __future__ import annotations

from gateway.client_events import client_event, empty_final
from protocol import service_messages as service
from protocol.client_messages import (
    EndOfTurn,
    Final,
    NonSpeech,
    Partial,
    SpeechStarted,
    SpeechStopped,
    Stages,
    Token,
)
from protocol.client_messages import Word as ClientWord

from .test_stream import make, pcm

TOKEN = Token(7, 1, 2)


def test_each_message() -> None:
    stream, _ = make()
    stream.write(pcm(50), 1)
    stream.decoded(40)
    words = (ClientWord("a", 1, 2, 0.5),)
    counters = {"audio_received": 50, "audio_decoded": 40}
    cases = [
        (
            service.Partial(3, 9, 40, 1, 2, 30, "st", "vo", Stages(5, 6, 7, 8, 0)),
            Partial(
                **counters, utterance=1, start_sample=2, end_sample=30, stable="st",
                volatile="vo", stages=Stages(5, 6, 7, 8, 99),
            ),
        ),
        (
            service.Final(3, 9, 40, 1, 2, 30, "t", words, (TOKEN,), "en", True, 4),
            Final(
                **counters, utterance=1, start_sample=2, end_sample=30, text="t", words=words,
                tokens=(TOKEN,),
                language="en", revised=True, finalize_id=4, stages=Stages(0, 77, 0, 0, 99),
            ),
        ),
        (
            service.SpeechStarted(3, 9, 40, 1, 2),
            SpeechStarted(**counters, utterance=1, start_sample=2),
        ),
        (
            service.SpeechStopped(3, 9, 40, 1, 20),
            SpeechStopped(**counters, utterance=1, end_sample=20),
        ),
        (
            service.NonSpeech(3, 9, 40, 0, 2),
            NonSpeech(**counters, start_sample=0, end_sample=2),
        ),
        (
            service.EndOfTurn(3, 9, 40, 1, 20),
            EndOfTurn(**counters, utterance=1, end_sample=20),
        ),
    ]  # fmt: skip
    for message, expected in cases:
        assert client_event(message, stream, lambda _: 77, 99) == expected


def test_the_answer_to_a_finalize_before_any_audio() -> None:
    answer = empty_final(6, 99)
    assert (answer.text, answer.finalize_id, answer.end_sample) == ("", 6, 0)
