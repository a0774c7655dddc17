"""Options of the parent to a ServerConfig."""

from __future__ import annotations

import pytest

from gateway.__main__ import _parser, main, parse_config
from gateway.config import ServerConfig


def parse(*argv: str) -> ServerConfig:
    return parse_config(_parser().parse_args(argv))


def test_no_options_are_the_defaults() -> None:
    assert parse() == ServerConfig()


def test_every_option_reaches_its_field() -> None:
    config = parse(
        "--model=m", "--host=::1", "--port=1", "--native-port=0", "--uds=/s", "--workers=2",
        "--services=3", "--max-sessions=4", "--vad=off", "--threads=5", "--hop-ms=160",
        "--allow-origin=https://a", "--allow-origin=https://b", "--insecure", "--no-gc-freeze",
        "--log-level=debug",
    )  # fmt: skip
    assert config == ServerConfig(
        model="m", host="::1", port=1, native_port=0, uds="/s", workers=2, services=3,
        max_sessions=4, vad=False, threads=5, hop_ms=160, allow_origins=("https://a", "https://b"),
        insecure=True, gc_freeze=False, log_level="debug",
    )  # fmt: skip


def test_flags_win_over_json() -> None:
    assert parse("--config", '{"port": 1, "workers": 2}', "--port=3") == ServerConfig(
        port=3, workers=2
    )


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--port=70000"], "65535"),
        (["--host=0.0.0.0"], "--insecure"),
        (["--config", '{"prot": 1}'], "unknown settings: prot"),
        (["--config", "{"], "truncated"),
        (["--workers=0"], "workers"),
    ],
)
def test_wrong_settings_are_one_line_and_status_2(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert error.startswith("earwire: error: ")
    assert message in error
    assert error.count("\n") == 1


def test_an_address_in_use_is_one_line_and_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--uds=/proc/none/s.sock", "--port=0"]) == 1
    assert "cannot listen on /proc/none/s.sock" in capsys.readouterr().err
