"""`earwire swap-model`: replace a model of a running server. `python -m gateway.swap_command`.

It asks over the server's control socket, shows what the server says, and returns when the new model
serves or the old one does after all. Ctrl-C takes the swap back as long as the new model is being
loaded; sessions that have begun to move are moved to the end.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec

from .control_messages import (
    MAX_LINE_BYTES,
    Answer,
    Done,
    Progress,
    SwapModel,
    decode_answer,
    encode_line,
)
from .control_paths import SUFFIX, connect, running_servers
from .errors import GatewayError


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="earwire swap-model",
        description="Replace a model of a running server without closing a session: the new model "
        "is loaded beside the old one, sessions move between two utterances, and the old one is "
        "stopped. If anything fails, the old one goes on serving. It takes the memory of both "
        "meanwhile. The same name again loads files that have changed. A server that is started "
        "anew serves what its own options say.",
    )
    parser.add_argument("model", metavar="MODEL", help="as for earwire serve --model")
    parser.add_argument(
        "--old", metavar="NAME", help="the model to replace, where the server has several"
    )
    parser.add_argument(
        "--socket", type=Path, metavar="PATH",
        help="the server's control socket, or its --uds; without it the one server of this user "
        "that runs without --uds",
    )  # fmt: skip
    return parser


def find_server(given: Path | None) -> Path:
    """The control socket. Raises GatewayError when it is not clear which one is meant."""
    if given is not None:
        beside = Path(f"{given}{SUFFIX}")
        return beside if beside.exists() else given
    found = running_servers()
    if not found:
        raise GatewayError("no server of this user found: use --socket with its --uds or --control")
    if len(found) > 1:
        names = ", ".join(map(str, found))
        raise GatewayError(f"several servers run, say which by --socket: {names}")
    return found[0]


def as_the_server_sees_it(model: str) -> str:
    """A path as an absolute one: the server may run in another folder."""
    path = os.path.expanduser(model)
    return os.path.abspath(path) if os.path.exists(path) else model


def _answers(stream: BinaryIO) -> Iterator[Answer]:
    while line := stream.readline(MAX_LINE_BYTES):
        yield decode_answer(line)


def _swap(options: argparse.Namespace) -> int:
    path = find_server(options.socket)
    begin_s = time.monotonic()
    with connect(path) as sock, sock.makefile("rb") as stream:
        sock.sendall(encode_line(SwapModel(as_the_server_sees_it(options.model), options.old)))
        sock.settimeout(None)  # a model takes as long as it takes
        for answer in _answers(stream):
            if isinstance(answer, Progress):
                print(f"{time.monotonic() - begin_s:6.1f} s  {answer.text}", file=sys.stderr)
            elif isinstance(answer, Done):
                print(answer.text)
                return 0
            else:
                print(f"earwire: error: {answer.text}", file=sys.stderr)
                return 1
    raise GatewayError("the server has ended")


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0, 1 when the old model still serves, 2 for wrong usage."""
    options = _parser().parse_args(argv)
    try:
        return _swap(options)
    except (GatewayError, OSError, ValueError, msgspec.DecodeError) as error:
        print(f"earwire: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("earwire: given up, unless sessions have begun to move", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
