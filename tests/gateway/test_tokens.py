"""The token file: what is read from it, what is wrong with it, and who is found in it."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.tokens import (
    MAX_COLUMNS,
    MAX_LIMIT,
    MAX_NAME_BYTES,
    MAX_SECRET_CHARS,
    MAX_TOKENS,
    TokenFileError,
    check_name,
    find_token,
    format_token,
    line_name,
    parse_tokens,
    place_tokens,
    secret_digest,
)
from protocol.supervisor_messages import (
    MAX_MESSAGE_BYTES,
    Access,
    Token,
    decode_supervisor_message,
    encode_supervisor_message,
)

DIGEST = hashlib.sha256(b"secret").hexdigest()
OTHER = hashlib.sha256(b"other").hexdigest()


def never(column: int) -> bool:
    return False


def test_names_digests_and_limits() -> None:
    first = f"# who\n\nagents {DIGEST} max_sessions=20  # the bots\n"
    second = f"kiosk {OTHER} per_minute=6 max_sessions=1"
    assert parse_tokens(first + second) == (
        Token("agents", bytes.fromhex(DIGEST), 20, None),
        Token("kiosk", bytes.fromhex(OTHER), 1, 6),
    )
    assert parse_tokens("") == ()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("agents", "no SHA-256 behind it"),
        ("agents 12ab", "64 hex digits"),
        (f"agents {DIGEST[:-1]}g", "64 hex digits"),
        (f"agents {DIGEST} max=1", r"'max=1' is not understood; there is max_sessions=N"),
        (f"agents {DIGEST} max_sessions=0", "a number from 1"),
        (f"agents {DIGEST} max_sessions=-1", "a number from 1"),
        (f"agents {DIGEST} max_sessions=", "a number from 1"),
        (f"agents {DIGEST} per_minute={MAX_LIMIT + 1}", "a number from 1"),
        (f"agents {DIGEST} per_minute={'9' * 5000}", "a number from 1"),
        (f"agents {DIGEST} per_minute=1 per_minute=1", "per_minute is there twice"),
        (f"{'x' * (MAX_NAME_BYTES + 1)} {DIGEST}", "a name is up to"),
        (f"first {DIGEST}", "a token 'first' already"),
        (f"again {OTHER}", "'again' has the secret of another token"),
    ],
)
def test_errors_name_the_line_and_never_quote_a_digest(line: str, reason: str) -> None:
    with pytest.raises(TokenFileError, match=reason) as caught:
        parse_tokens(f"# comment\nfirst {OTHER}\n{line}\n")
    assert str(caught.value).startswith("line 3: ")
    assert DIGEST not in str(caught.value)


def test_more_tokens_than_fit_are_an_error() -> None:
    lines = [f"t{i} {i:064x}" for i in range(MAX_TOKENS)]
    assert len(parse_tokens("\n".join(lines))) == MAX_TOKENS
    with pytest.raises(TokenFileError, match=f"line {MAX_TOKENS + 1}: at most"):
        parse_tokens("\n".join([*lines, f"more {DIGEST}"]))


def test_the_fullest_message_to_a_worker_is_one_datagram() -> None:
    from gateway.certificates import MAX_PEM_BYTES

    names = [f"{i:04}".ljust(MAX_NAME_BYTES, "x") for i in range(MAX_TOKENS)]
    tokens = tuple(Token(name, bytes(32), MAX_LIMIT, MAX_LIMIT, MAX_COLUMNS - 1) for name in names)
    access = Access(2**32, tokens, bytes(MAX_PEM_BYTES), bytes(MAX_PEM_BYTES))
    data = encode_supervisor_message(access)
    assert len(data) <= MAX_MESSAGE_BYTES
    assert decode_supervisor_message(data) == access


@given(st.text(max_size=2_000))
def test_any_text_is_tokens_or_an_error_with_a_line(text: str) -> None:
    error_line, tokens = 1, ()
    try:
        tokens = parse_tokens(text)
    except TokenFileError as error:
        error_line = error.line_number
    assert 1 <= error_line <= max(1, len(text.splitlines()))
    assert len({token.digest for token in tokens}) == len(tokens)


def test_a_written_token_is_read_as_it_was() -> None:
    for token in (
        Token("a", secret_digest("a")),
        Token("b", secret_digest("b"), max_sessions=1),
        Token("c", secret_digest("c"), max_sessions=2, per_minute=MAX_LIMIT),
    ):
        assert parse_tokens(format_token(token)) == (token,)


@pytest.mark.parametrize("name", ["", "a b", "a#", "a\n", "\ud800", "x" * 65])
def test_names_that_cannot_be(name: str) -> None:
    with pytest.raises(ValueError, match="a name is"):
        check_name(name)
    check_name("büro-1")


def test_names_of_lines() -> None:
    assert line_name(f"agents {DIGEST}\n") == "agents"
    assert line_name("# agents\n") is None
    assert line_name("  \n") is None


def test_a_secret_finds_its_token_and_nothing_else_does() -> None:
    tokens = tuple(Token(name, secret_digest(name)) for name in ("one", "two", "three"))
    for token in tokens:
        assert find_token(tokens, token.name) is token
    for wrong in ("", "on", "one ", "ONE", "\ud800", "x" * (MAX_SECRET_CHARS + 1)):
        assert find_token(tokens, wrong) is None
    assert find_token((), "one") is None
    # the digest itself, as somebody would send it who saw the file, opens nothing
    assert find_token(tokens, tokens[0].digest.hex()) is None


def test_a_name_keeps_its_column() -> None:
    one, two, three = (Token(name, secret_digest(name)) for name in ("one", "two", "three"))
    first = place_tokens((one, two), (), lambda column: True)
    assert [token.column for token in first] == [0, 1]
    rotated = Token("two", secret_digest("new"))
    second = place_tokens((three, rotated), first, lambda column: True)
    assert [(token.name, token.column) for token in second] == [("three", 0), ("two", 1)]
    assert second[1].digest == rotated.digest


def test_a_new_name_gets_a_column_without_sessions_if_there_is_one() -> None:
    one = Token("one", secret_digest("one"))
    assert place_tokens((one,), (), lambda column: column == 7)[0].column == 7
    assert place_tokens((one,), (), never)[0].column == 0
