"""Draws protocol.session.TRANSITIONS as mermaid text, for docs/PROTOCOL.md.

`python -m docs.draw_states` prints the diagram; a test checks that the document holds exactly what
is printed here, so that the picture cannot grow apart from the table.
"""

from __future__ import annotations

from protocol.client_messages import FROM_CLIENT, FROM_SERVER, MessageType
from protocol.session import TRANSITIONS, State


def arrows(state: State, target: State, types: list[MessageType]) -> list[str]:
    """One arrow for what a client says and one for what a server says, where there is any."""
    lines = []
    for who, own in (("client", FROM_CLIENT), ("server", FROM_SERVER)):
        names = [t.name.lower() for t in sorted(types) if t in own]
        if names:
            lines.append(f"    {state.name} --> {target.name}: {who} says {', '.join(names)}")
    return lines


def state_diagram() -> str:
    """A mermaid state diagram, in the order of the table."""
    lines = ["stateDiagram-v2", f"    [*] --> {State.AWAIT_HELLO.name}"]
    for state, row in TRANSITIONS.items():
        for target in dict.fromkeys(row.values()):
            lines += arrows(state, target, [t for t, new in row.items() if new is target])
    lines.append(f"    {State.CLOSED.name} --> [*]")
    lines.append(f"    {State.FAILED.name} --> [*]")
    return "\n".join(lines)


if __name__ == "__main__":
    print(state_diagram())
