"""The token file: who may use this server, one line a token. Pure.

    # name  SHA-256 of the secret, in hex                                      limits
    agents  9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08  max_sessions=20
    kiosk   60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752  per_minute=6

The secrets are not in it: tokens_command.py makes them of 256 random bits and shows them once, so a
plain hash is enough (nobody can try them out), and a copied file lets nobody in. The supervisor
reads the file and keeps each name in one column of the quota table; the workers compare.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterable, Sequence

from msgspec import structs

from protocol.supervisor_messages import Token

from .errors import GatewayError

MAX_TOKENS = 1_000  # all of them travel to a worker in one datagram
MAX_COLUMNS = 2 * MAX_TOKENS  # removed tokens keep theirs for as long as sessions of them are open
MAX_NAME_BYTES = 64
MAX_LIMIT = 1_000_000
MAX_SECRET_CHARS = 4_096  # longer ones are wrong without being hashed
SECRET_PREFIX = "ew_"  # so that tools that look for leaked secrets, and people, know one
_LIMITS = ("max_sessions", "per_minute")


class TokenFileError(GatewayError):
    """The token file makes no sense; the message names the line and what is wrong with it."""

    def __init__(self, line_number: int, reason: str) -> None:
        super().__init__(line_number, reason)
        self.line_number = line_number
        self.reason = reason

    def __str__(self) -> str:
        return f"line {self.line_number}: {self.reason}"


def parse_tokens(text: str) -> tuple[Token, ...]:
    """The tokens of a file, in its order. Raises TokenFileError; never quotes a digest."""
    tokens: dict[str, Token] = {}
    digests: set[bytes] = set()
    for number, line in enumerate(text.splitlines(), 1):
        words = _words(line)
        if not words:
            continue
        try:
            token = _parse_line(words)
        except ValueError as error:
            raise TokenFileError(number, str(error)) from None
        if token.name in tokens:
            raise TokenFileError(number, f"there is a token {token.name!r} already")
        if token.digest in digests:
            raise TokenFileError(number, f"{token.name!r} has the secret of another token")
        if len(tokens) == MAX_TOKENS:
            raise TokenFileError(number, f"at most {MAX_TOKENS} tokens are possible")
        tokens[token.name] = token
        digests.add(token.digest)
    return tuple(tokens.values())


def line_name(line: str) -> str | None:
    """The name of the token in one line of a file; None: an empty line, or a comment."""
    words = _words(line)
    return words[0] if words else None


def _words(line: str) -> list[str]:
    return line.split("#", 1)[0].split()


def _parse_line(words: Sequence[str]) -> Token:
    name, *rest = words
    check_name(name)
    if not rest:
        raise ValueError(f"{name!r} has no SHA-256 behind it")
    try:
        digest = bytes.fromhex(rest[0])
    except ValueError:
        digest = b""
    if len(digest) != hashlib.sha256().digest_size:
        raise ValueError(f"what stands behind {name!r} is no SHA-256: 64 hex digits")
    limits: dict[str, int] = {}
    for word in rest[1:]:
        key, value = _parse_limit(word)
        if key in limits:
            raise ValueError(f"{key} is there twice")
        limits[key] = value
    return Token(name, digest, limits.get("max_sessions"), limits.get("per_minute"))


def _parse_limit(word: str) -> tuple[str, int]:
    key, _, value = word.partition("=")
    if key not in _LIMITS:
        raise ValueError(f"{word!r} is not understood; there is max_sessions=N and per_minute=N")
    if not (value.isascii() and value.isdecimal() and 1 <= int(value[:9]) <= MAX_LIMIT):
        raise ValueError(f"{key} takes a number from 1 to {MAX_LIMIT}")
    return key, int(value)


def check_name(name: str) -> None:
    """Raises ValueError for what cannot be the name of a token."""
    size = len(name.encode("utf-8", "surrogatepass"))
    if not 1 <= size <= MAX_NAME_BYTES or not name.isprintable() or set(name) & set("# "):
        raise ValueError(
            f"a name is up to {MAX_NAME_BYTES} bytes of printable text without # or blanks"
        )


def format_token(token: Token) -> str:
    """The line that `parse_tokens` reads."""
    values = ((key, getattr(token, key)) for key in _LIMITS)
    limits = [f"{key}={value}" for key, value in values if value is not None]
    return " ".join([token.name, token.digest.hex(), *limits])


def secret_digest(secret: str) -> bytes:
    """What the file and the workers know of a secret."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def find_token(tokens: Iterable[Token], secret: str) -> Token | None:
    """The token of a secret, in a time that tells nothing about how close a wrong one came."""
    if not secret or len(secret) > MAX_SECRET_CHARS:
        return None
    digest = secret_digest(secret)
    found = None
    for token in tokens:  # always all of them
        if hmac.compare_digest(token.digest, digest):
            found = token
    return found


def place_tokens(
    tokens: Iterable[Token], before: Iterable[Token], is_idle: Callable[[int], bool]
) -> tuple[Token, ...]:
    """The tokens with a column each: a name keeps the one it had `before`, new ones get a column
    without open sessions if there is one (else somebody else's count until these have ended)."""
    kept = {token.name: token.column for token in before}
    wanted = tuple(tokens)
    used = {kept[token.name] for token in wanted if token.name in kept}
    free = [column for column in range(MAX_COLUMNS) if column not in used]
    free.sort(key=lambda column: not is_idle(column))
    columns = iter(free)
    return tuple(
        structs.replace(token, column=kept[token.name] if token.name in kept else next(columns))
        for token in wanted
    )
