"""AccessFiles: what is read at the start, what a reload takes, and what it leaves as it was."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.access_files import MAX_TOKEN_FILE_BYTES, AccessError, AccessFiles, read_token_file
from gateway.certificates import CertificateError
from gateway.config import ServerConfig
from gateway.quota import map_table
from gateway.tokens import format_token, secret_digest
from protocol.supervisor_messages import Token
from tests.certificates import make_certificate

ONE = Token("one", secret_digest("1"))
TWO = Token("two", secret_digest("2"), max_sessions=2)


def write(path: Path, *tokens: Token) -> None:
    path.write_text("".join(format_token(token) + "\n" for token in tokens))


@pytest.fixture
def config(tmp_path: Path) -> ServerConfig:
    write(tmp_path / "tokens", ONE, TWO)
    files = make_certificate(tmp_path)
    return ServerConfig(
        tokens=str(tmp_path / "tokens"), tls_cert=str(files.cert), tls_key=str(files.key), workers=2
    )


@pytest.fixture
def access(config: ServerConfig) -> Iterator[AccessFiles]:
    access = AccessFiles(config)
    yield access
    access.close()


def test_tokens_and_certificate_are_read_at_the_start(access: AccessFiles) -> None:
    message = access.message
    assert message.tokens is not None
    assert [token.name for token in message.tokens] == ["one", "two"]
    assert b"BEGIN CERTIFICATE" in message.certificate_pem
    assert b"PRIVATE KEY" in message.key_pem
    assert access.describe() == "2 tokens and a certificate"


def test_without_files_there_is_nothing() -> None:
    access = AccessFiles(ServerConfig())
    assert (access.message.tokens, access.message.certificate_pem) == (None, b"")
    assert access.quota_fd is None
    assert access.describe() == ""
    assert access.reload() == []
    access.forget_worker(0)
    access.close()


def test_a_reload_takes_what_is_good(access: AccessFiles, tmp_path: Path) -> None:
    before = access.message
    write(tmp_path / "tokens", TWO)
    make_certificate(tmp_path)  # a new one under the same names
    assert access.reload() == []
    after = access.message
    assert after.revision == before.revision + 1
    assert after.tokens is not None
    assert [(token.name, token.column) for token in after.tokens] == [("two", 1)]
    assert after.certificate_pem != before.certificate_pem


def test_a_bad_file_changes_nothing_and_does_not_keep_the_other_from_it(
    access: AccessFiles, tmp_path: Path
) -> None:
    before = access.message
    (tmp_path / "tokens").write_text("nonsense\n")
    make_certificate(tmp_path)
    (error,) = access.reload()
    assert "line 1: 'nonsense' has no SHA-256" in error
    assert str(tmp_path / "tokens") in error
    assert access.message.tokens == before.tokens
    assert access.message.certificate_pem != before.certificate_pem
    good = access.message.certificate_pem
    (tmp_path / "server.key").unlink()
    write(tmp_path / "tokens", ONE)
    (error,) = access.reload()
    assert "server.key" in error
    assert access.message.certificate_pem == good
    assert access.message.tokens is not None
    assert len(access.message.tokens) == 1


def test_a_column_with_open_sessions_is_not_given_to_a_new_name(
    access: AccessFiles, tmp_path: Path
) -> None:
    assert access.quota_fd is not None
    worker = map_table(access.quota_fd, 2, 1)
    assert worker.claim(0, None, None, 1) is None  # a session of "one"
    three = Token("three", secret_digest("3"))
    write(tmp_path / "tokens", three)
    access.reload()
    assert access.message.tokens is not None
    assert access.message.tokens[0].column == 1
    access.forget_worker(1)
    write(tmp_path / "tokens", three, ONE)
    access.reload()
    assert access.message.tokens[1].column == 0


def test_files_that_cannot_be_tokens(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    for data, message in (
        (None, "cannot read the token file .*: No such file"),
        (b"\xff\xfe", "is no text"),
        (bytes(MAX_TOKEN_FILE_BYTES + 1), "is over"),
        (b"one\n", "tokens, line 1: 'one' has no"),
    ):
        if data is not None:
            path.write_bytes(data)
        with pytest.raises(AccessError, match=message):
            read_token_file(str(path))


def test_bad_files_at_the_start_are_errors_and_leave_no_descriptor(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(AccessError):
        AccessFiles(ServerConfig(tokens=str(tmp_path / "none")))
    with pytest.raises(CertificateError):
        AccessFiles(ServerConfig(tls_cert=str(tmp_path / "none")))
    assert len(os.listdir("/proc/self/fd")) == before
