"""Log lines: text for people, JSON for programs, and both for events."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from protocol.log_lines import JsonFormatter, LogEvent, configure_logging, json_line


@pytest.fixture(autouse=True)
def root_logger() -> Iterator[None]:
    """configure_logging works on the one there is."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def test_an_event_is_json_in_the_text_form_too() -> None:
    assert str(LogEvent("closed", {"session_id": "a\n1"})) == (
        '{"event":"closed","session_id":"a\\n1"}'
    )


def test_a_json_line_has_time_level_and_source_first() -> None:
    line = json_line(1_700_000_000.0625, "info", "worker 0", LogEvent("closed", {"n": 1}))
    assert line == (
        '{"time":"2023-11-14T22:13:20.062+00:00","level":"info","source":"worker 0",'
        '"event":"closed","n":1}'
    )
    fields = json.loads(json_line(0, "error", "server", "two\nlines", "Traceback"))
    assert (fields["event"], fields["message"]) == ("log", "two\nlines")
    assert fields["traceback"] == "Traceback"


def test_records_of_logging_become_such_lines(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("json", "info", "worker 3", "%(message)s")
    log = logging.getLogger("earwire.test")
    log.debug("not shown")
    log.warning("lost service %d", 1)
    log.info(LogEvent("final", {"text": "hello"}))
    try:
        raise ValueError("broken")
    except ValueError:
        log.exception("it failed")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["level"] for line in lines] == ["warning", "info", "error"]
    assert {line["source"] for line in lines} == {"worker 3"}
    assert lines[0]["message"] == "lost service 1"
    assert lines[1]["text"] == "hello"
    assert "ValueError: broken" in lines[2]["traceback"]


def test_the_text_form_is_as_before(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("text", "warning", "worker 0", "%(levelname).1s %(message)s")
    log = logging.getLogger("earwire.test")
    log.info("not shown")
    log.error(LogEvent("closed", {"n": 1}))
    assert capsys.readouterr().err == 'E {"event":"closed","n":1}\n'


def test_a_formatter_alone() -> None:
    record = logging.LogRecord("a", logging.INFO, "f", 1, "hi %s", ("you",), None)
    assert json.loads(JsonFormatter("x").format(record))["message"] == "hi you"
