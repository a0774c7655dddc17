"""resume_token.py: one text a token, nothing else is one, and a secret is known by its hash."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.resume_token import ResumeToken, parse_resume_token
from protocol.client_messages import Resume
from protocol.resume_messages import MAX_RESUME_TOKEN_CHARS

SECRET = bytes(range(16))
TOKEN = ResumeToken(2, "2a41f09-1c", SECRET)
SECRETS = st.binary(min_size=16, max_size=16)


def test_what_is_written_is_read_again() -> None:
    assert TOKEN.text == "2.2a41f09-1c.000102030405060708090a0b0c0d0e0f"
    assert parse_resume_token(TOKEN.text) == TOKEN


def test_the_longest_fits_a_resume() -> None:
    text = ResumeToken(99_999, "z" * 64, SECRET).text
    assert parse_resume_token(text) is not None
    assert len(text) <= MAX_RESUME_TOKEN_CHARS


@given(st.integers(0, 99_999), st.from_regex(r"[0-9a-z-]{1,64}", fullmatch=True), SECRETS)
def test_any_token_survives(owner: int, session_id: str, secret: bytes) -> None:
    token = ResumeToken(owner, session_id, secret)
    assert parse_resume_token(token.text) == token


@pytest.mark.parametrize(
    "text",
    [
        "", ".", "..", "2", TOKEN.text + "0", TOKEN.text[:-1], TOKEN.text + "\n", " " + TOKEN.text,
        TOKEN.text.upper(), TOKEN.text.replace("2.2", "-2.2"), TOKEN.text.replace("2.2", "٢.2"),
        TOKEN.text.replace("2.2", "100000.2"), TOKEN.text.replace("2.2", "02.2"),
        TOKEN.text.replace("2.2", "00.2"), f"2.{'z' * 65}.{SECRET.hex()}",
        f"2.{SECRET.hex()}", f"2..{SECRET.hex()}", f"2.a.b.{SECRET.hex()}",
    ],
)  # fmt: skip
def test_anything_else_is_no_token(text: str) -> None:
    assert parse_resume_token(text) is None


@given(st.text(max_size=300))
def test_no_text_raises(text: str) -> None:
    token = parse_resume_token(text)
    assert token is None or token.text == text


@given(SECRETS)
def test_only_the_secret_matches_its_hash(other: bytes) -> None:
    assert TOKEN.is_of(TOKEN.digest)
    assert ResumeToken(2, "2a41f09-1c", other).is_of(TOKEN.digest) == (other == SECRET)


def test_a_secret_is_not_printed() -> None:
    assert SECRET.hex() not in repr(TOKEN)
    assert SECRET.hex() not in f"{TOKEN}"
    assert Resume(resume_token=TOKEN.text, events_received=0).resume_token == TOKEN.text
