"""Who may use a local server from a web page."""

from __future__ import annotations

import pytest

from gateway.origin import origin_allowed


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        (None, "127.0.0.1:8080"),  # no browser
        (None, None),
        ("http://127.0.0.1:8080", "127.0.0.1:8080"),
        ("http://localhost:8080", "localhost:8080"),
        ("HTTP://LocalHost:8080/", " localhost:8080"),
        ("http://[::1]:8080", "[::1]:8080"),
        ("http://192.168.1.5", "192.168.1.5"),
        ("http://192.168.1.5", "192.168.1.5:80"),
        ("https://192.168.1.5", "192.168.1.5"),
        ("https://192.168.1.5:443", "192.168.1.5"),
    ],
)
def test_own_pages_and_no_browser_pass(origin: str | None, host: str | None) -> None:
    assert origin_allowed(origin, host, ())


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://evil.example", "127.0.0.1:8080"),
        ("http://127.0.0.1:3000", "127.0.0.1:8080"),
        ("http://localhost:8080", "127.0.0.1:8080"),
        ("https://127.0.0.1:8080", None),
        ("https://127.0.0.1", "127.0.0.1:80"),
        ("null", "127.0.0.1:8080"),
        ("file://", "127.0.0.1:8080"),
        ("chrome-extension://abcdef", "abcdef"),
        ("", ""),
        ("http://", ""),
        ("http://[::1", "[::1"),
        ("http://127.0.0.1:99999", "127.0.0.1:99999"),
        ("http://127.0.0.1:8080, http://127.0.0.1:8080", "127.0.0.1:8080"),
    ],
)
def test_others_are_refused(origin: str, host: str | None) -> None:
    assert not origin_allowed(origin, host, ())


def test_a_name_may_be_rebound_so_equal_host_proves_nothing() -> None:
    assert not origin_allowed("http://evil.example:8080", "evil.example:8080", ())


def test_named_origins_pass_whatever_the_host() -> None:
    allowed = ("https://Captions.example/", "http://localhost:3000")
    assert origin_allowed("https://captions.example", "127.0.0.1:8080", allowed)
    assert origin_allowed("http://localhost:3000", None, allowed)
    assert not origin_allowed("http://captions.example", "127.0.0.1:8080", allowed)


def test_a_star_lets_everybody_in() -> None:
    assert origin_allowed("http://evil.example", None, ("*",))


@pytest.mark.parametrize(
    ("origin", "host", "passes"),
    [
        ("https://captions.example", "captions.example", True),
        ("https://captions.example:8443", "captions.example:8443", True),
        ("https://captions.example", "captions.example:8443", False),
        ("http://captions.example:8443", "captions.example:8443", False),
        ("https://evil.example", "captions.example", False),
        ("https://192.168.1.5", "192.168.1.5", True),
    ],
)
def test_over_tls_a_server_with_a_name_has_own_pages(origin: str, host: str, passes: bool) -> None:
    """The browser has checked the certificate for that name; without TLS it proves nothing."""
    assert origin_allowed(origin, host, (), over_tls=True) is passes
    assert origin_allowed("https://captions.example", "captions.example", ()) is False
