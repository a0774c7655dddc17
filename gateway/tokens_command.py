"""`earwire tokens`: make, list and remove the tokens of a file. `python -m gateway.tokens_command`.

The secret of a new token goes to stdout, once; the file gets its SHA-256. Comments and the order of
the file stay as they were. The file is replaced in one step, so that a server that reads it at any
moment reads the old one or the new one; it takes notice at SIGHUP. Of commands at the same time
each waits for the one before it, by a lock on the folder, so none of them undoes another.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import secrets
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from protocol.supervisor_messages import Token

from .access_files import read_token_file
from .errors import GatewayError
from .tokens import (
    MAX_LIMIT,
    SECRET_PREFIX,
    check_name,
    format_token,
    line_name,
    parse_tokens,
    secret_digest,
)

_HEADER = "# name  SHA-256 of the secret  [max_sessions=N] [per_minute=N]\n"
_SECRET_BYTES = 32
_NEW_MODE = 0o600


def _limit(text: str) -> int:
    value = int(text)
    if not 1 <= value <= MAX_LIMIT:
        raise argparse.ArgumentTypeError(f"a number from 1 to {MAX_LIMIT}")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="earwire tokens",
        description="The tokens of a file for `earwire serve --tokens FILE`. A running server "
        "reads the file again at SIGHUP.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    add = commands.add_parser("add", help="make a token; prints its secret, which is kept nowhere")
    add.add_argument("file", type=Path, metavar="FILE", help="made if there is none")
    add.add_argument("name", metavar="NAME", help="for logs, and for `remove`")
    add.add_argument("--max-sessions", type=_limit, metavar="N", help="streams open at a time")
    add.add_argument("--per-minute", type=_limit, metavar="N", help="streams begun in a minute")
    listing = commands.add_parser("list", help="names and limits")
    listing.add_argument("file", type=Path, metavar="FILE")
    remove = commands.add_parser("remove", help="take a token away")
    remove.add_argument("file", type=Path, metavar="FILE")
    remove.add_argument("name", metavar="NAME")
    return parser


@contextlib.contextmanager
def _alone(file: Path) -> Iterator[None]:
    """Nobody else reads this file to replace it meanwhile. The file itself is no place for a lock:
    it is replaced.
    """
    folder_fd = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(folder_fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder_fd)


def _add(file: Path, token: Token, secret: str) -> None:
    with _alone(file):
        text = file.read_text() if file.exists() else _HEADER
        if text and not text.endswith("\n"):
            text += "\n"
        _write(file, text + format_token(token) + "\n")
    print(secret)
    print(f"earwire: {token.name!r} is in {file}; this secret is not shown again", file=sys.stderr)


def _list(file: Path) -> None:
    for token in read_token_file(str(file)):
        sessions = "any number of" if token.max_sessions is None else str(token.max_sessions)
        rate = "" if token.per_minute is None else f", {token.per_minute} begun a minute"
        print(f"{token.name}: {sessions} sessions at a time{rate}")


def _remove(file: Path, name: str) -> None:
    read_token_file(str(file))  # a file that makes no sense is not touched
    with _alone(file):
        lines = file.read_text().splitlines(keepends=True)
        kept = [line for line in lines if line_name(line) != name]
        if len(kept) == len(lines):
            raise GatewayError(f"{file} has no token {name!r}")
        _write(file, "".join(kept))


def _write(file: Path, text: str) -> None:
    """Check, then replace the file in one step; its mode stays. Raises what the text has wrong."""
    parse_tokens(text)
    mode = file.stat().st_mode & 0o777 if file.exists() else _NEW_MODE
    descriptor, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with open(descriptor, "w") as out:
            out.write(text)
            out.flush()
            os.fchmod(out.fileno(), mode)
            os.fsync(out.fileno())
        os.replace(temporary, file)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _run(options: argparse.Namespace) -> None:
    if options.command == "list":
        _list(options.file)
    elif options.command == "remove":
        _remove(options.file, options.name)
    else:
        check_name(options.name)
        secret = SECRET_PREFIX + secrets.token_urlsafe(_SECRET_BYTES)
        digest = secret_digest(secret)
        _add(
            options.file,
            Token(options.name, digest, options.max_sessions, options.per_minute),
            secret,
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0, 1 when it could not be done, 2 for wrong usage."""
    options = _parser().parse_args(argv)
    try:
        _run(options)
    except (GatewayError, OSError, ValueError) as error:
        print(f"earwire: error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
