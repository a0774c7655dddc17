"""The text that lets a client go on with its session on another connection. Pure.

It names the worker that has the session, the session, and a secret of 128 random bits; the server
keeps the secret's SHA-256 alone. Whoever reads a token from a client gets a value or None, whatever
came.

    2.2a41f09-1c.9f86d081884c7d659a2feaa0c55ad015
    |     |                    `-- secret, in hex
    |     `-- session id
    `-- index of the worker
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass

SECRET_BYTES = 16
MAX_SESSION_ID_CHARS = 64
_FORM = re.compile(
    r"(0|[1-9][0-9]{0,4})\."
    rf"([0-9a-z-]{{1,{MAX_SESSION_ID_CHARS}}})\.([0-9a-f]{{{2 * SECRET_BYTES}}})"
)


@dataclass(frozen=True, slots=True)
class ResumeToken:
    """See the module text."""

    owner: int
    session_id: str
    secret: bytes

    def __repr__(self) -> str:
        """Without the secret, wherever it may be printed."""
        return f"ResumeToken(owner={self.owner}, session_id={self.session_id!r})"

    @property
    def text(self) -> str:
        """As it travels."""
        return f"{self.owner}.{self.session_id}.{self.secret.hex()}"

    @property
    def digest(self) -> bytes:
        """What the server keeps."""
        return hashlib.sha256(self.secret).digest()

    def is_of(self, digest: bytes) -> bool:
        """True when the secret is the one that this was made of; the time taken tells nothing."""
        return hmac.compare_digest(self.digest, digest)


def parse_resume_token(text: str) -> ResumeToken | None:
    """The token; None for anything else."""
    match = _FORM.fullmatch(text)
    if match is None:
        return None
    owner, session_id, secret = match.groups()
    return ResumeToken(int(owner), session_id, bytes.fromhex(secret))
