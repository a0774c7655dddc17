"""Self-signed certificates for tests, made when they are needed by the openssl command."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """Paths of PEM files."""

    cert: Path
    key: Path


def make_certificate(folder: Path, name: str = "server", *, rsa: bool = False) -> CertificateFiles:
    """For localhost, 127.0.0.1 and ::1; P-256 unless `rsa`."""
    files = CertificateFiles(folder / f"{name}.pem", folder / f"{name}.key")
    new_key = ["rsa:2048"] if rsa else ["ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    subprocess.run(
        [
            "openssl", "req", "-x509", "-nodes", "-days", "2", "-newkey", *new_key,
            "-subj", f"/CN={name}",
            "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1",
            "-keyout", str(files.key), "-out", str(files.cert),
        ],
        check=True,
        capture_output=True,
    )  # fmt: skip
    return files
