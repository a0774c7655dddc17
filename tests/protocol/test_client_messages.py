"""client_messages.py: every message survives its encoding, and no payload can raise anything but a
RemoteProtocolError with a code to answer with.

The limits are tried from both sides: the last value that passes and the first that does not.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.client_messages import (
    FROM_CLIENT,
    FROM_SERVER,
    MAX_AUDIO_BYTES,
    MAX_CONTROL_BYTES,
    MAX_EVENT_BYTES,
    Audio,
    Bye,
    Final,
    Hello,
    Message,
    MessageType,
    Ping,
    VadOptions,
    decode_payload,
    encode_message,
    encode_payload,
)
from protocol.errors import MAX_MESSAGE_CHARS, ErrorCode, RemoteProtocolError
from protocol.framing import CLIENT_MAGIC, FrameDecoder

from .examples import CLIENT_MESSAGES

PACKED = {
    MessageType.AUDIO, MessageType.PING, MessageType.PONG, MessageType.WATERMARK, MessageType.ACK,
}  # fmt: skip
JSON_TYPES = sorted(set(MessageType) - PACKED)
EVENT: dict[str, Any] = {"audio_received": 2, "audio_decoded": 1}
PARTIAL = EVENT | {"utterance": 0, "start_sample": 0, "end_sample": 1, "stable": "", "volatile": ""}
FINAL = EVENT | {"utterance": 0, "start_sample": 0, "end_sample": 1, "text": ""}
CLOSED = {
    "reason": "bye",
    "client_samples": 1,
    "socket_samples": 1,
    "ring_samples": 1,
    "engine_samples": 1,
}
LAST_COUNT = 2**63 - 1

# type, fields, (last good values), (first bad values)
LIMITS: list[tuple[MessageType, str, Sequence[object], Sequence[object]]] = [
    (MessageType.HELLO, "token", ["", "x" * 4_096], ["x" * 4_097, 1, None]),
    (MessageType.HELLO, "encoding", ["pcm_s16le", "pcm_f32le"], ["opus", "", 1]),
    (MessageType.HELLO, "language", [None, "x" * 256], ["x" * 257, 1]),
    (MessageType.HELLO, "model", [None, "x" * 256], ["x" * 257, []]),
    (MessageType.HELLO, "prompt", ["x" * 2_048], ["x" * 2_049]),
    (MessageType.HELLO, "client", ["x" * 256], ["x" * 257]),
    (MessageType.HELLO, "hop_ms", [None, 80, 5_000], [79, 5_001, 80.5, "80"]),
    (MessageType.HELLO, "sample_rate_hz", [8_000], ["16000", 1.5, None, 10**30 * 10**4_300]),
    (
        MessageType.HELLO,
        "hotwords",
        [[], ["x"] * 256, ["x" * 128]],
        [["x"] * 257, ["x" * 129], [""]],
    ),
    (MessageType.HELLO, "tokens", [True], [1]),
    (MessageType.HELLO, "partials", [True], [1, "yes"]),
    (MessageType.HELLO, "live", [True], [0]),
    (MessageType.HELLO, "vad", [{}], [None, [], True]),
    (MessageType.HELLO, "vad.threshold", [0, 0.0, 1.0, None], [-0.01, 1.01, "0.5"]),
    (MessageType.HELLO, "vad.min_speech_ms", [0, 10_000], [-1, 10_001]),
    (MessageType.HELLO, "vad.min_silence_ms", [32, 10_000], [31, 10_001]),
    (MessageType.HELLO, "vad.end_of_turn_ms", [None, 0, 60_000], [-1, 60_001, 0.5]),
    (MessageType.HELLO, "vad.speech_pad_ms", [0, 2_000], [-1, 2_001]),
    (MessageType.HELLO, "vad.max_utterance_ms", [1_000, 60_000], [999, 60_001]),
    (MessageType.FINALIZE, "finalize_id", [0, 2**32 - 1], [-1, 2**32]),
    (MessageType.PARTIAL, "stable", ["x" * 131_072], ["x" * 131_073]),
    (MessageType.PARTIAL, "volatile", ["x" * 131_072], ["x" * 131_073]),
    (MessageType.FINAL, "text", ["x" * 131_072], ["x" * 131_073]),
    (MessageType.FINAL, "words", [[["a", 0, 1, 0.5]]], [[["a", 0, 1]], [[1, 0, 1, 0.5]], "a"]),
    (MessageType.FINAL, "tokens", [[[1, 0, 4]]], [[[1, 0]], [["a", 0, 4]], "a"]),
    *[
        (MessageType.FINAL, field, [0, LAST_COUNT], [-1, LAST_COUNT + 1, 0.5])
        for field in ("audio_received", "audio_decoded", "utterance", "start_sample", "end_sample")
    ],
    *[
        (MessageType.CLOSED, field, [0, LAST_COUNT], [-1, LAST_COUNT + 1])
        for field in (*(key for key in CLOSED if key != "reason"), "lost_samples")
    ],
]
REQUIRED: dict[MessageType, dict[str, Any]] = {
    MessageType.PARTIAL: PARTIAL,
    MessageType.FINAL: FINAL,
    MessageType.CLOSED: CLOSED,
}


def big_json(value: object) -> bytes:
    """json.dumps refuses integers of more than 4300 digits; hostile peers do not."""
    if isinstance(value, int) and value > 10**4_000:
        return b"9" * 4_400
    return json.dumps(value).encode()


def payload_with(type_: MessageType, path: str, value: object) -> bytes:
    fields = {k: json.dumps(v).encode() for k, v in REQUIRED.get(type_, {}).items()}
    outer, _, inner = path.partition(".")
    text = big_json(value)
    fields[outer] = b'{"%s":%s}' % (inner.encode(), text) if inner else text
    return b"{%s}" % b",".join(b'"%s":%s' % (k.encode(), v) for k, v in fields.items())


def limit_id(value: object) -> str:
    return value if isinstance(value, str) else getattr(value, "name", "limits")


def refusal(type_: int, payload: bytes) -> RemoteProtocolError:
    with pytest.raises(RemoteProtocolError) as raised:
        decode_payload(type_, payload)
    return raised.value


def outcome(type_: MessageType, payload: bytes) -> MessageType | ErrorCode:
    """What a fuzzed payload came to; any exception but a RemoteProtocolError fails the test."""
    try:
        message = decode_payload(type_, payload)
    except RemoteProtocolError as error:
        return error.code
    assert message is not None
    return message.TYPE


def test_there_is_an_example_of_every_type() -> None:
    assert set(CLIENT_MESSAGES) == set(MessageType)


def test_each_type_has_one_direction() -> None:
    assert set(MessageType) == FROM_CLIENT | FROM_SERVER
    assert not FROM_CLIENT & FROM_SERVER


@pytest.mark.parametrize("message", CLIENT_MESSAGES.values(), ids=lambda m: m.TYPE.name)
def test_a_message_comes_back_from_its_payload(message: Message) -> None:
    assert decode_payload(message.TYPE, encode_payload(message)) == message


@pytest.mark.parametrize("message", CLIENT_MESSAGES.values(), ids=lambda m: m.TYPE.name)
def test_a_message_comes_back_from_its_frame(message: Message) -> None:
    decoder = FrameDecoder(CLIENT_MAGIC)
    decoder.next_sequence = 5
    decoder.receive_data(encode_message(message, 5))
    frame = decoder.next_frame()
    assert frame is not None
    assert decode_payload(frame.type, frame.payload) == message


def test_defaults_are_not_written() -> None:
    assert encode_payload(Hello()) == encode_payload(Bye()) == b"{}"
    assert decode_payload(MessageType.HELLO, b"{}") == Hello()


@pytest.mark.parametrize("type_", JSON_TYPES, ids=lambda t: t.name)
def test_a_key_of_a_newer_minor_is_ignored(type_: MessageType) -> None:
    message = CLIENT_MESSAGES[type_]
    fields = json.loads(encode_payload(message)) | {"of_version_1_7": {"deep": [1, None]}}
    assert decode_payload(type_, json.dumps(fields).encode()) == message


def test_a_vad_option_of_a_newer_minor_is_ignored() -> None:
    hello = decode_payload(MessageType.HELLO, b'{"vad":{"enabled":false,"of_version_1_7":1}}')
    assert hello == Hello(vad=VadOptions(enabled=False))


@pytest.mark.parametrize("type_", [MessageType.PING, MessageType.PONG, MessageType.WATERMARK])
def test_a_packed_message_may_grow_at_its_end_but_not_be_short(type_: MessageType) -> None:
    payload = encode_payload(CLIENT_MESSAGES[type_])
    assert decode_payload(type_, payload + b"newer") == CLIENT_MESSAGES[type_]
    for size in range(len(payload)):
        assert refusal(type_, payload[:size]).code is ErrorCode.BAD_MESSAGE


@pytest.mark.parametrize(("type_", "path", "good", "bad"), LIMITS, ids=limit_id)
def test_a_field_holds_its_limits(
    type_: MessageType, path: str, good: Sequence[object], bad: Sequence[object]
) -> None:
    for value in good:
        assert decode_payload(type_, payload_with(type_, path, value)) is not None
    for value in bad:
        assert refusal(type_, payload_with(type_, path, value)).code is ErrorCode.BAD_MESSAGE


@pytest.mark.parametrize("field", sorted(FINAL))
def test_a_required_field_may_not_be_left_out(field: str) -> None:
    fields = {key: value for key, value in FINAL.items() if key != field}
    error = refusal(MessageType.FINAL, json.dumps(fields).encode())
    assert error.code is ErrorCode.BAD_MESSAGE
    assert field in error.message


@pytest.mark.parametrize("type_", JSON_TYPES, ids=lambda t: t.name)
@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b"{}{}",
        b"\xff\xfe",
        b'{"client":"\xff","reason":"\xff","session_id":"\xff"',
        b'{"a":' + b"[" * 60_000,
        b'{"a":' * 12_000,
    ],
    ids=[
        "empty", "torn", "array", "null", "string", "two values", "not text", "bad utf-8",
        "nested arrays", "nested objects",
    ],
)  # fmt: skip
def test_bytes_that_are_no_message_are_a_bad_message(type_: MessageType, payload: bytes) -> None:
    assert refusal(type_, payload).code is ErrorCode.BAD_MESSAGE


def test_bad_utf8_in_a_known_field_is_a_bad_message() -> None:
    error = refusal(MessageType.HELLO, b'{"client":"\xc3\x28"}')
    assert error.code is ErrorCode.BAD_MESSAGE
    assert error.message.startswith("hello: ")


def test_a_refusal_does_not_echo_all_that_was_sent() -> None:
    error = refusal(MessageType.HELLO, b'{"encoding":"%s"}' % (b"x" * 60_000))
    assert len(error.message) <= MAX_MESSAGE_CHARS


@pytest.mark.parametrize("type_", sorted(set(MessageType) - {MessageType.AUDIO}))
def test_a_control_message_over_its_limit_is_refused_before_it_is_parsed(
    type_: MessageType,
) -> None:
    limit = MAX_CONTROL_BYTES if type_ in FROM_CLIENT else MAX_EVENT_BYTES
    blank = b"{" + b" " * limit
    assert refusal(type_, blank).code is ErrorCode.FRAME_TOO_LARGE


def test_audio_is_held_to_its_own_limit() -> None:
    longest = Audio(0, bytes(MAX_AUDIO_BYTES))
    assert decode_payload(MessageType.AUDIO, encode_payload(longest)) == longest
    too_long = encode_payload(Audio(0, bytes(MAX_AUDIO_BYTES + 1)))
    assert refusal(MessageType.AUDIO, too_long).code is ErrorCode.FRAME_TOO_LARGE


@pytest.mark.parametrize("size", range(8))
def test_audio_without_its_whole_offset_is_a_bad_message(size: int) -> None:
    assert refusal(MessageType.AUDIO, bytes(size)).code is ErrorCode.BAD_MESSAGE


def test_audio_may_be_empty() -> None:
    assert decode_payload(MessageType.AUDIO, bytes(8)) == Audio(0, b"")


@pytest.mark.parametrize("type_", sorted(set(range(256)) - {int(t) for t in MessageType}))
def test_an_unknown_type_is_no_message(type_: int) -> None:
    assert decode_payload(type_, b"anything") is None


@pytest.mark.parametrize(
    "hello", [Hello(sample_rate_hz=7_999), Hello(channels=0), Hello(sample_rate_hz=10**4_000)]
)
def test_a_format_outside_the_limits_is_unsupported(hello: Hello) -> None:
    with pytest.raises(RemoteProtocolError) as raised:
        hello.audio_format()
    assert raised.value.code is ErrorCode.UNSUPPORTED_FORMAT


def test_a_declared_format_is_kept() -> None:
    audio = Hello(sample_rate_hz=48_000, channels=2).audio_format()
    assert (audio.sample_rate_hz, audio.channels, audio.frame_bytes) == (48_000, 2, 4)


@given(st.sampled_from(MessageType), st.binary(max_size=300))
def test_random_bytes_raise_nothing_but_a_remote_error(type_: MessageType, payload: bytes) -> None:
    assert outcome(type_, payload) in {type_, ErrorCode.BAD_MESSAGE}


@given(st.sampled_from(MessageType), st.data())
def test_a_damaged_message_raises_nothing_but_a_remote_error(
    type_: MessageType, data: st.DataObject
) -> None:
    payload = bytearray(encode_payload(CLIENT_MESSAGES[type_]))
    if payload:
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    assert outcome(type_, bytes(payload)) in {type_, ErrorCode.BAD_MESSAGE}


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=8,
)


@given(st.sampled_from(JSON_TYPES), st.data())
def test_wrong_json_types_raise_nothing_but_a_remote_error(
    type_: MessageType, data: st.DataObject
) -> None:
    fields = json.loads(encode_payload(CLIENT_MESSAGES[type_]))
    name = data.draw(st.sampled_from([*fields, "new"]))
    fields[name] = data.draw(JSON_VALUES)
    assert outcome(type_, json.dumps(fields).encode()) in {type_, ErrorCode.BAD_MESSAGE}


@given(st.integers(0, 2**64 - 1), st.binary(max_size=100))
def test_any_audio_survives(offset: int, pcm: bytes) -> None:
    assert decode_payload(2, encode_payload(Audio(offset, pcm))) == Audio(offset, pcm)


@given(st.text(max_size=200))
def test_any_text_survives(text: str) -> None:
    final = Final(**FINAL | {"text": text})
    assert decode_payload(MessageType.FINAL, encode_payload(final)) == final


@given(st.integers(0, 2**64 - 1))
def test_any_nonce_survives(nonce: int) -> None:
    assert encode_payload(Ping(nonce)) == nonce.to_bytes(8, "little")
    assert decode_payload(MessageType.PING, encode_payload(Ping(nonce))) == Ping(nonce)


@pytest.mark.parametrize(
    ("end_sample", "finalize_id", "is_empty"), [(8, None, False), (9, 1, False), (8, 1, True)]
)
def test_the_answer_to_a_finalize_that_had_nothing_to_end(
    end_sample: int, finalize_id: int | None, is_empty: bool
) -> None:
    final = Final(
        audio_received=9, audio_decoded=9, utterance=1, start_sample=8, end_sample=end_sample,
        text="", finalize_id=finalize_id,
    )  # fmt: skip
    assert final.is_empty_answer is is_empty
