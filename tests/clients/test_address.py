"""Server URLs."""

from __future__ import annotations

import pytest

from clients.address import Address, parse_address
from clients.errors import AddressError


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("earwire://localhost:9000", Address("earwire", "localhost", 9000)),
        ("earwire://[::1]:9000", Address("earwire", "::1", 9000)),
        ("unix:///run/e.sock", Address("unix", path="/run/e.sock")),
        ("ws://h:8080/v1/stream", Address("ws", "h", 8080, "/v1/stream")),
        ("ws://h:8080/other", Address("ws", "h", 8080, "/other")),
        ("earwires://h:9000", Address("earwires", "h", 9000)),
        ("wss://h:8443/v1/stream", Address("wss", "h", 8443, "/v1/stream")),
    ],
)
def test_urls_go_there_and_back(url: str, address: Address) -> None:
    assert parse_address(url) == address
    assert address.url == url
    assert address.is_websocket == url.startswith("ws")
    assert address.has_tls == (url.startswith(("wss", "earwires")))


def test_short_forms() -> None:
    assert parse_address("http://h:1").url == "ws://h:1/v1/stream"
    assert parse_address("ws://h/").url == "ws://h:80/v1/stream"
    assert parse_address("https://h:1/").url == "wss://h:1/v1/stream"
    assert parse_address("wss://h").url == "wss://h:443/v1/stream"


@pytest.mark.parametrize(
    "url", ["", "localhost:8080", "earwire://h", "earwire://h:1/x", "unix://rel", "ws://h:x/"]
)
def test_others_are_told_what_works(url: str) -> None:
    with pytest.raises(AddressError, match="use earwire://HOST:PORT"):
        parse_address(url)
