"""docs/PROTOCOL.md agrees with the code: the state diagram, every message with its fields, every
error code with its retryable flag, and the bytes and the client of its examples.
"""

from __future__ import annotations

import dataclasses
import re
import runpy
from pathlib import Path

import msgspec
import pytest

from protocol import client_messages as messages
from protocol.client_messages import MessageType, decode_payload
from protocol.errors import RETRYABLE, ErrorCode
from protocol.framing import CLIENT_MAGIC, FrameDecoder
from protocol.service_messages import ServiceMessageType

from .examples import CLIENT_MESSAGES, SERVICE_MESSAGES

DOCS = Path(__file__).parents[2] / "docs"
DOCUMENT = (DOCS / "PROTOCOL.md").read_text()
INTERNAL = "## 14. Gateway and service"


def section(heading: str) -> str:
    """The text below a heading, up to the next one of the same or a higher level."""
    level = heading.split()[0]
    start = DOCUMENT.index(f"\n{heading}\n") + len(heading) + 2
    end = re.search(rf"^#{{2,{len(level)}}} ", DOCUMENT[start:], re.MULTILINE)
    return DOCUMENT[start:] if end is None else DOCUMENT[start : start + end.start()]


def blocks(text: str, language: str = "") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def message_section(type_: MessageType) -> str:
    name = f"### `{int(type_):02x}` {type_.name.lower()} ("
    (heading,) = (line for line in DOCUMENT.splitlines() if line.startswith(name))
    return section(heading)


def own_fields(type_: type[object]) -> list[str]:
    if dataclasses.is_dataclass(type_):
        return [field.name for field in dataclasses.fields(type_)]
    names = [field.name for field in msgspec.structs.fields(type_)]  # type: ignore[arg-type]
    return [name for name in names if name not in ("audio_received", "audio_decoded")]


def test_the_state_diagram_is_drawn_from_the_table() -> None:
    drawn = runpy.run_path(str(DOCS / "draw_states.py"))["state_diagram"]()
    assert blocks(DOCUMENT, "mermaid") == [drawn + "\n"]


@pytest.mark.parametrize("type_", MessageType, ids=lambda t: t.name)
def test_a_message_is_described_with_all_its_fields(type_: MessageType) -> None:
    text = message_section(type_)
    absent = [name for name in own_fields(type(CLIENT_MESSAGES[type_])) if name not in text]
    assert absent == []


@pytest.mark.parametrize("type_", [messages.VadOptions, messages.Limits, messages.Stages])
def test_a_part_of_a_message_is_described_with_all_its_fields(type_: type[object]) -> None:
    assert [name for name in own_fields(type_) if name not in DOCUMENT] == []


@pytest.mark.parametrize("type_", MessageType, ids=lambda t: t.name)
def test_an_event_is_called_one(type_: MessageType) -> None:
    (line,) = (x for x in DOCUMENT.splitlines() if x.startswith(f"### `{int(type_):02x}` "))
    fields = getattr(CLIENT_MESSAGES[type_], "__struct_fields__", ())
    assert ("event" in line) == ("audio_received" in fields)
    assert ("JSON" in line) == (isinstance(CLIENT_MESSAGES[type_], msgspec.Struct))


@pytest.mark.parametrize("code", ErrorCode, ids=lambda c: c.value)
def test_an_error_code_is_listed_with_its_flag(code: ErrorCode) -> None:
    flag = "yes" if code in RETRYABLE else "no"
    assert f"| `{code.value}` | {flag} |" in section("## 10. Errors")


@pytest.mark.parametrize("type_", SERVICE_MESSAGES, ids=lambda t: t.name)
def test_a_service_message_is_listed_with_its_fields_in_order(type_: ServiceMessageType) -> None:
    fields = ", ".join(getattr(SERVICE_MESSAGES[type_], "__struct_fields__", ()))
    assert f"| `{int(type_):02x}` | {type_.name.lower()} | {fields} |" in section(INTERNAL)


def decode_dump(lines: list[str]) -> messages.Message:
    frame_bytes = bytes.fromhex("".join(line[:47] for line in lines))
    decoder = FrameDecoder(CLIENT_MAGIC)
    decoder.next_sequence = int.from_bytes(frame_bytes[12:16], "little")
    decoder.receive_data(frame_bytes)
    frame = decoder.next_frame()
    assert frame is not None
    assert decoder.buffered_bytes == 0
    message = decode_payload(frame.type, frame.payload)
    assert message is not None
    return message


def test_the_hex_example_is_what_it_says() -> None:
    dump, audio = blocks(section("## 12. A worked example"))
    decoded: list[messages.Message] = []
    for part in re.split(r"^(?:client|server): .*\n", dump, flags=re.MULTILINE)[1:]:
        decoded.append(decode_dump(part.splitlines()))
    pcm = messages.Audio(0, bytes.fromhex("0100ffff"))
    assert decoded[:4] == [
        messages.Hello(client="doc"), pcm, messages.Finalize(finalize_id=7), messages.Bye(),
    ]  # fmt: skip
    assert isinstance(decoded[4], messages.Closed)
    apart = "".join(line[:24] for line in audio.splitlines())
    assert bytes.fromhex(apart) == messages.encode_message(pcm, 1)


def test_the_example_client_is_short_and_compiles() -> None:
    (code,) = blocks(section("## 13. A client in 25 lines"), "python")
    compile(code, "client.py", "exec")
    assert len([line for line in code.splitlines() if line.strip()]) <= 25
