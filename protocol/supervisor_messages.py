"""Messages between the parent process and its children, one datagram each (SOCK_SEQPACKET).

The parent hands descriptors over beside them (SCM_RIGHTS), in the order the docstrings give. A
child whose end of this socket closes has lost its parent and ends.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

MAX_MESSAGE_BYTES = 160 * 1024

# What a child says by its exit status, beside 0. Another try can not help: a model file is missing,
# an option is wrong.
EXIT_HOPELESS = 3
# The GPU is lost to the process: after some errors of CUDA nothing works any more, and only a new
# process can use the device. It is started again as after any crash.
EXIT_DEVICE_LOST = 4


class Link(msgspec.Struct, frozen=True, tag="link"):
    """A connection to a peer of the other kind; descriptors: [stream socket] for a worker,
    [stream socket, arena] for a service. `peer` is its index, `epoch` counts its restarts.

    To a worker the rest says which service that is."""

    peer: int
    epoch: int
    rank: int = 0  # the place of its model among the server's models; 0: the default one
    aliases: tuple[str, ...] = ()  # what else clients may call its model
    retiring: bool = False  # its streams are to go on elsewhere (Retire)


class Unlinked(msgspec.Struct, frozen=True, tag="unlinked"):
    """A worker has lost its link to this service. If both live, they get another one."""

    peer: int
    epoch: int


class Retire(msgspec.Struct, frozen=True, tag="retire"):
    """To a worker: give this service no new stream and move those it has to others of its rank;
    with `retiring` false, it serves (again). Said once a second while a model is replaced."""

    peer: int
    retiring: bool = True
    aliases: tuple[str, ...] = ()  # as in Link


class Remaining(msgspec.Struct, frozen=True, tag="remaining"):
    """How many streams a worker still has at a service that retires; said about once a second."""

    peer: int
    num_streams: int


class Handoff(msgspec.Struct, frozen=True, tag="handoff"):
    """A client came to one worker, and another one has its session. From the first to the parent,
    and on to `worker`; descriptors: [stream socket, on which the client's bytes come]. One that
    cannot be passed on is closed."""

    worker: int


class Drain(msgspec.Struct, frozen=True, tag="drain"):
    """Take no new sessions; finish the open ones, then exit 0."""


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """Exit now."""


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The child listens, or has made its first real recognition step."""

    detail: str = ""


class Alive(msgspec.Struct, frozen=True, tag="alive"):
    """A service has come to the end of a turn of its loop; said about twice a second, unless it
    hangs."""

    turn_ns: int  # on the clock that all processes of the machine share


class Sample(msgspec.Struct, frozen=True, array_like=True):
    """One metric sample: name, label pairs, value; `how` to merge: "sum" or "max"."""

    name: str
    labels: tuple[tuple[str, str], ...]
    value: float
    how: str = "sum"


class Stats(msgspec.Struct, frozen=True, tag="stats"):
    """A child's samples (to the parent), or all of them merged (to the workers)."""

    samples: tuple[Sample, ...]


class Log(msgspec.Struct, frozen=True, tag="log"):
    """A line for the person at the terminal."""

    level: str
    text: str


class Token(msgspec.Struct, frozen=True, array_like=True):
    """One line of the token file. Sessions and rates are over all workers; None: no limit."""

    name: str  # for logs and messages; the secret itself is nowhere
    digest: bytes  # SHA-256 of the secret
    max_sessions: int | None = None  # open at a time
    per_minute: int | None = None  # sessions begun
    column: int = 0  # of the workers' shared quota table


class Access(msgspec.Struct, frozen=True, tag="access"):
    """Who may connect, and the server's certificate: the first message to a worker, and again
    after each SIGHUP that changed something."""

    revision: int
    tokens: tuple[Token, ...] | None = None  # None: no token file, everybody may
    certificate_pem: bytes = b""  # with its chain; empty: no TLS
    key_pem: bytes = b""

    def __repr__(self) -> str:
        """Without the key, wherever it may be printed."""
        return f"Access(revision={self.revision})"


SupervisorMessage: TypeAlias = (
    Link | Unlinked | Retire | Remaining | Handoff | Drain | Stop | Ready | Alive | Stats | Log
    | Access
)  # fmt: skip

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[SupervisorMessage] = msgspec.msgpack.Decoder(SupervisorMessage)


def encode_supervisor_message(message: SupervisorMessage) -> bytes:
    """One datagram."""
    return _encoder.encode(message)


def decode_supervisor_message(data: bytes) -> SupervisorMessage:
    """The message of a datagram; raises msgspec.DecodeError for anything else."""
    try:
        return _decoder.decode(data)
    except (UnicodeDecodeError, RecursionError) as error:
        raise msgspec.DecodeError(str(error)) from None
