"""What log lines look like: text for people, or one JSON object a line for programs. Pure.

Every process of a server writes to the same stderr; `source` says which one a line is from. An
event with fields is logged as a LogEvent, and is JSON in both forms. Nothing here holds transcript
text: whoever logs an event decides what is in it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone

import msgspec


@dataclass(frozen=True, slots=True)
class LogEvent:
    """Something that happened, as `msg` of a logging call."""

    name: str
    fields: Mapping[str, object] = field(default_factory=dict)

    def __str__(self) -> str:
        """The text form: JSON as well, without time and level."""
        return msgspec.json.encode({"event": self.name, **self.fields}).decode()


def json_line(
    time_s: float, level: str, source: str, message: object, traceback: str | None = None
) -> str:
    """One line; `time_s` is Unix time, `level` one of debug, info, warning and error."""
    fields: dict[str, object] = {
        "time": datetime.fromtimestamp(time_s, timezone.utc).isoformat(timespec="milliseconds"),
        "level": level,
        "source": source,
    }
    if isinstance(message, LogEvent):
        fields |= {"event": message.name, **message.fields}
    else:
        fields |= {"event": "log", "message": str(message)}
    if traceback is not None:
        fields["traceback"] = traceback
    return msgspec.json.encode(fields).decode()


class JsonFormatter(logging.Formatter):
    """logging's records as such lines."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self._source = source

    def format(self, record: logging.LogRecord) -> str:
        """See json_line."""
        message = record.msg if isinstance(record.msg, LogEvent) else record.getMessage()
        traceback = self.formatException(record.exc_info) if record.exc_info else None
        level = record.levelname.lower()
        return json_line(record.created, level, self._source, message, traceback)


def configure_logging(log_format: str, level: str, source: str, text_format: str) -> None:
    """Let everything this process logs go to stderr; `log_format` is "json" or "text"."""
    handler = logging.StreamHandler()
    as_json = log_format == "json"
    handler.setFormatter(JsonFormatter(source) if as_json else logging.Formatter(text_format))
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
