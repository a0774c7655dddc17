"""What is logged of a stream, and what never is."""

from __future__ import annotations

import json
import logging

import pytest

from gateway.session_log import log_closed, log_final
from gateway.stream import Stream
from protocol.client_messages import Error, Final, Hello, ServerMessage


class Owner:
    """See gateway.stream.StreamOwner."""

    dialect_name = "openai"

    def deliver(self, event: ServerMessage) -> None:
        assert not isinstance(event, Error)

    def resume(self) -> None:
        """Nothing waits."""

    def stream_ended(self) -> None:
        """Nobody asks."""


def logged(caplog: pytest.LogCaptureFixture) -> tuple[str, dict[str, object]]:
    (record,) = caplog.records
    caplog.clear()
    return record.levelname, json.loads(record.getMessage())


@pytest.fixture
def stream() -> Stream:
    return Stream("0abc-1", Hello(client='a "client"\n', token="s3cret"), Owner(), None)


def test_a_close_record_is_one_line(caplog: pytest.LogCaptureFixture, stream: Stream) -> None:
    caplog.set_level(logging.INFO)
    log_closed(stream, stream.close_record(0))
    level, fields = logged(caplog)
    assert level == "INFO"
    assert fields["event"] == "stream_closed"
    assert (fields["session_id"], fields["dialect"]) == ("0abc-1", "openai")
    assert fields["client"] == 'a "client"\n'
    assert "s3cret" not in str(fields)


def test_counts_that_differ_are_an_error_unless_the_service_died(
    caplog: pytest.LogCaptureFixture, stream: Stream
) -> None:
    caplog.set_level(logging.INFO)
    log_closed(stream, stream.close_record(5))
    assert logged(caplog)[0] == "ERROR"
    stream.abandoned = True
    log_closed(stream, stream.close_record(5))
    assert logged(caplog)[0] == "INFO"


def test_a_final_is_logged_with_its_session(
    caplog: pytest.LogCaptureFixture, stream: Stream
) -> None:
    caplog.set_level(logging.INFO)
    final = Final(
        audio_received=9, audio_decoded=9, utterance=0, start_sample=1, end_sample=9, text="hello"
    )
    log_final(stream, final)
    level, fields = logged(caplog)
    assert (level, fields["event"], fields["text"]) == ("INFO", "final", "hello")
    assert (fields["start_sample"], fields["end_sample"]) == (1, 9)
