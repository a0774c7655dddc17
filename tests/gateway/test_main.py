"""Options of the parent to a ServerConfig."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from gateway.__main__ import _parser, main, parse_config
from gateway.config import DEFAULT_PER_ADDRESS, MAX_MODELS, ServerConfig

SERVICE = Path(__file__).parents[2] / "gpu_service"
NOT_OF_SERVE = {
    "--extra-index-url", "--force-reinstall",  # pip's
    "--copy", "--max-bytes", "--max-seconds", "--out", "--force", "--help", "--yes",  # of ours
}  # fmt: skip
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+")


def parse(*argv: str) -> ServerConfig:
    return parse_config(_parser().parse_args(argv))


def test_no_options_are_the_defaults() -> None:
    assert parse() == ServerConfig()


def test_every_option_reaches_its_field() -> None:
    config = parse(
        "--model=m", "--host=::1", "--port=1", "--native-port=0", "--uds=/s", "--workers=2",
        "--services=3", "--max-sessions=4", "--vad=off", "--threads=5", "--hop-ms=160",
        "--allow-origin=https://a", "--allow-origin=https://b", "--insecure", "--no-gc-freeze",
        "--log-level=debug", "--wyoming-port=10300", "--tokens=t", "--tls-cert=c", "--tls-key=k",
        "--max-connections-per-address=6", "--max-upload-mb=7", "--max-file-minutes=8",
        "--log-format=json", "--log-transcripts", "--flight-recorder=/f", "--flight-recorder-mb=9",
        "--flight-recorder-lag-ms=10", "--control=/c",
    )  # fmt: skip
    assert config == ServerConfig(
        model="m", host="::1", port=1, native_port=0, uds="/s", workers=2, services=3,
        max_sessions=4, vad=False, threads=5, hop_ms=160, allow_origins=("https://a", "https://b"),
        insecure=True, gc_freeze=False, log_level="debug", wyoming_port=10_300, tokens="t",
        tls_cert="c", tls_key="k", max_connections_per_address=6, max_upload_mb=7,
        max_file_minutes=8, log_format="json", log_transcripts=True, flight_recorder="/f",
        flight_recorder_mb=9, flight_recorder_lag_ms=10, control="/c",
    )  # fmt: skip


def test_several_models() -> None:
    assert parse("--model=a", "--model", "b", "--model=c").models == ("a", "b", "c")
    both = parse("--config", '{"model": "a", "more_models": ["b"]}', "--model=c")
    assert both.models == ("c",), "flags name all of them"


def test_flags_win_over_json() -> None:
    assert parse("--config", '{"port": 1, "workers": 2}', "--port=3") == ServerConfig(
        port=3, workers=2
    )


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--port=70000"], "65535"),
        (["--host=0.0.0.0"], "refusing to listen on 0.0.0.0 without --tokens"),
        (["--host=0.0.0.0", "--tokens=t", "--wyoming-port=0"], "Wyoming has no tokens"),
        (["--tls-key=k"], "goes with --tls-cert"),
        (["--config", '{"prot": 1}'], "unknown settings: prot"),
        (["--config", "{"], "truncated"),
        (["--workers=0"], "workers"),
        (["--model=a", "--model=b", "--model=a"], "each model once"),
        ([f"--model={n}" for n in range(MAX_MODELS + 1)], f"at most {MAX_MODELS}"),
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


def test_files_of_tokens_and_certificates_are_checked_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("agents 12ab\n")
    assert main([f"--tokens={tokens}", "--port=0"]) == 1
    assert capsys.readouterr().err.startswith(f"earwire: error: the token file {tokens}, line 1: ")
    assert main([f"--tls-cert={tmp_path}/none.pem", "--port=0"]) == 1
    assert "none.pem: No such file" in capsys.readouterr().err


def test_who_may_listen_where() -> None:
    for options in (
        ["--host=0.0.0.0", "--tokens=t"],
        ["--host=0.0.0.0", "--insecure", "--wyoming-port=0"],
        ["--host=0.0.0.0", "--tokens=t", "--insecure", "--wyoming-port=0"],
        ["--host=localhost", "--tokens=t", "--wyoming-port=0"],
    ):
        parse(*options)


def test_limits_by_address_are_off_on_this_machine_unless_asked_for() -> None:
    assert parse().max_per_address is None
    assert parse("--max-connections-per-address=3").max_per_address == 3
    assert parse("--host=::", "--insecure").max_per_address == DEFAULT_PER_ADDRESS
    assert not parse().reads_access_files
    assert parse("--tokens=t").reads_access_files
    assert parse("--tls-cert=c").reads_access_files


def test_flights_are_recorded_where_the_operator_says_so() -> None:
    assert parse().flight_settings is None
    settings = parse("--flight-recorder=/f", "--model=m", "--vad=off").flight_settings
    assert settings is not None
    assert (settings.folder, settings.max_bytes, settings.lag_ms) == ("/f", 256_000_000, 2_000)
    assert (settings.server.model, settings.server.vad) == ("m", False)
    assert parse_config(
        _parser().parse_args(["--config", msgspec.json.encode(settings.server).decode()])
    ) == parse("--model=m", "--vad=off")


def test_a_folder_of_flight_records_that_others_can_read_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tmp_path.chmod(0o755)
    assert main([f"--flight-recorder={tmp_path}", "--port=0"]) == 1
    assert "chmod 700" in capsys.readouterr().err


def test_an_address_in_use_is_one_line_and_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--uds=/proc/none/s.sock", "--port=0"]) == 1
    assert "cannot listen on /proc/none/s.sock" in capsys.readouterr().err


def test_the_options_that_the_service_names_in_its_errors_exist() -> None:
    named = {
        option for path in SERVICE.rglob("*.py") for option in OPTION.findall(path.read_text())
    }  # fmt: skip
    known = {flag for action in _parser()._actions for flag in action.option_strings}
    assert "--vad" in named
    assert named - known - NOT_OF_SERVE == set()
