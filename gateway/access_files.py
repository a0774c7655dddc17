"""The files that say who may connect, as the parent knows them: tokens, certificate, quota table.

Shell. The supervisor makes one at the start, sends its `message` to every worker, and calls
`reload` on SIGHUP. A file that has become bad is reported and changes nothing: what was read last
stays in force.
"""

from __future__ import annotations

import os
from pathlib import Path

from msgspec import structs

from protocol.supervisor_messages import Access, Token

from .certificates import Certificate, read_certificate
from .config import ServerConfig
from .errors import GatewayError
from .quota import QuotaTable, create_table, map_table
from .tokens import TokenFileError, parse_tokens, place_tokens

MAX_TOKEN_FILE_BYTES = 1024 * 1024


class AccessError(GatewayError):
    """A file cannot be used; the message names it, and the line if it is one line's fault."""


def read_token_file(path: str) -> tuple[Token, ...]:
    """Its tokens. Raises AccessError."""
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_TOKEN_FILE_BYTES + 1)
    except OSError as error:
        raise AccessError(f"cannot read the token file {path}: {error.strerror}") from None
    if len(data) > MAX_TOKEN_FILE_BYTES:
        raise AccessError(f"the token file {path} is over {MAX_TOKEN_FILE_BYTES} bytes")
    try:
        return parse_tokens(data.decode())
    except UnicodeDecodeError:
        raise AccessError(f"the token file {path} is no text") from None
    except TokenFileError as error:
        raise AccessError(f"the token file {path}, {error}") from None


class AccessFiles:
    """Of one server. Raises GatewayError when a file is bad at the start."""

    def __init__(self, config: ServerConfig) -> None:
        self._config = config
        self.message = Access(revision=0)
        self.quota_fd: int | None = None  # that workers inherit; None: no tokens
        self._table: QuotaTable | None = None
        if config.tls_cert is not None:
            self._take_certificate(read_certificate(config.tls_cert, config.tls_key))
        if config.tokens is not None:
            tokens = read_token_file(config.tokens)
            self.quota_fd = create_table(config.workers)
            self._table = map_table(self.quota_fd, config.workers, row=0)  # it only reads, clears
            self._take_tokens(tokens)

    def reload(self) -> list[str]:
        """Read the files again; what is wrong with those that stay as they were."""
        errors: list[str] = []
        if self._config.tokens is not None:
            try:
                self._take_tokens(read_token_file(self._config.tokens))
            except AccessError as error:
                errors.append(str(error))
        if self._config.tls_cert is not None:
            try:
                self._take_certificate(
                    read_certificate(self._config.tls_cert, self._config.tls_key)
                )
            except GatewayError as error:
                errors.append(str(error))
        self.message = structs.replace(self.message, revision=self.message.revision + 1)
        return errors

    def _take_tokens(self, tokens: tuple[Token, ...]) -> None:
        placed = place_tokens(tokens, self.message.tokens or (), self._is_idle)
        self.message = structs.replace(self.message, tokens=placed)

    def _take_certificate(self, certificate: Certificate) -> None:
        self.message = structs.replace(
            self.message,
            certificate_pem=certificate.chain_pem,
            key_pem=certificate.key_pem,
        )

    def _is_idle(self, column: int) -> bool:
        return self._table is not None and self._table.num_sessions(column) == 0

    def forget_worker(self, index: int) -> None:
        """It is dead: its sessions count no more."""
        if self._table is not None:
            self._table.clear_row(index)

    def describe(self) -> str:
        """For the log: what is in force."""
        words = []
        if self.message.tokens is not None:
            words.append(f"{len(self.message.tokens)} tokens")
        if self.message.certificate_pem:
            words.append("a certificate")
        return " and ".join(words)

    def close(self) -> None:
        """Let go of the table; workers keep theirs."""
        if self.quota_fd is not None:
            os.close(self.quota_fd)
            self.quota_fd = None
