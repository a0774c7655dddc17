"""Certificates: what a server can use, and in which words it says that it cannot."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path

import pytest

from gateway.certificates import (
    MAX_PEM_BYTES,
    Certificate,
    CertificateError,
    read_certificate,
    server_context,
)
from tests.certificates import make_certificate


@pytest.mark.parametrize("rsa", [False, True])
def test_a_certificate_and_its_key_make_a_context(tmp_path: Path, rsa: bool) -> None:
    files = make_certificate(tmp_path, rsa=rsa)
    certificate = read_certificate(str(files.cert), str(files.key))
    assert b"BEGIN CERTIFICATE" in certificate.chain_pem
    context = server_context(certificate)
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert context.options & ssl.OP_NO_RENEGOTIATION


def test_both_may_be_in_one_file(tmp_path: Path) -> None:
    files = make_certificate(tmp_path)
    both = tmp_path / "both.pem"
    both.write_bytes(files.key.read_bytes() + files.cert.read_bytes())
    server_context(read_certificate(str(both), None))


def test_the_key_is_not_in_the_repr(tmp_path: Path) -> None:
    certificate = Certificate(b"chain", b"very private")
    assert "private" not in repr(certificate)


def test_what_cannot_be_used_says_which_file_and_why(tmp_path: Path) -> None:
    one, two = make_certificate(tmp_path, "one"), make_certificate(tmp_path, "two")
    junk = tmp_path / "junk.pem"
    junk.write_text("hello")
    long = tmp_path / "long.pem"
    long.write_bytes(bytes(MAX_PEM_BYTES + 1))
    locked = tmp_path / "locked.key"
    subprocess.run(
        ["openssl", "pkcs8", "-topk8", "-in", one.key, "-out", locked, "-passout", "pass:x"],
        check=True,
    )
    for cert, key, message in (
        (one.cert, two.key, "KEY_VALUES_MISMATCH"),
        (one.cert, None, "no certificate with its key"),
        (junk, one.key, "no certificate with its key"),
        (tmp_path / "none.pem", None, "cannot read .*none.pem: No such file"),
        (long, one.key, "long.pem is over"),
        (one.cert, locked, "locked.key has a passphrase"),
    ):
        with pytest.raises(CertificateError, match=message):
            read_certificate(str(cert), str(key) if key else None)
