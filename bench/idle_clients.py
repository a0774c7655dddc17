"""Holds many idle WebSocket connections, each with a session of Together's dialect.

A process of its own, so that holding them costs the talker nothing: `python -m bench.idle_clients
--port P --count N` connects them, says "ready", and keeps them until its stdin closes. It answers
no pings and reads nothing more: that is what an idle client looks like between two pings.
"""

from __future__ import annotations

import argparse
import sys

from gateway.child_process import raise_descriptor_limit

from .load_generator import Client, LoadConfig

CONNECT_AT_ONCE = 100


def main() -> None:
    """Connect, say so, wait."""
    parser = argparse.ArgumentParser(description="Idle connections for bench idle.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--count", type=int, required=True)
    options = parser.parse_args()
    raise_descriptor_limit()
    config = LoadConfig(
        address=("127.0.0.1", options.port), dialect="together", num_streams=options.count,
        num_frames=0, out="",
    )  # fmt: skip
    clients: list[Client] = []
    while len(clients) < options.count:
        batch = [Client(config) for _ in range(min(CONNECT_AT_ONCE, options.count - len(clients)))]
        for client in batch:
            client.greet()
        for client in batch:
            client.await_session()
        clients += batch
    print("ready", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
