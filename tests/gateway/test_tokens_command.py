"""`earwire tokens`: what it prints, what it leaves in the file, and what it refuses."""

from __future__ import annotations

import re
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gateway import tokens_command
from gateway.tokens import find_token, parse_tokens, secret_digest
from gateway.tokens_command import main


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tokens"


def add(file: Path, name: str, *options: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["add", str(file), name, *options]) == 0
    out, err = capsys.readouterr()
    assert out.count("\n") == 1
    assert f"{name!r} is in {file}" in err
    return out.strip()


def test_the_secret_is_printed_once_and_only_its_hash_is_kept(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = add(file, "agents", "--max-sessions", "20", capsys=capsys)
    second = add(file, "kiosk", "--per-minute=6", capsys=capsys)
    assert first != second
    assert first.startswith("ew_")
    assert len(first) > 40
    text = file.read_text()
    assert first not in text
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    tokens = parse_tokens(text)
    assert find_token(tokens, first) == tokens[0]
    assert (tokens[0].name, tokens[0].max_sessions) == ("agents", 20)
    assert (tokens[1].per_minute, tokens[1].max_sessions) == (6, None)


def test_list_shows_names_and_limits(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add(file, "agents", "--max-sessions=20", "--per-minute=100", capsys=capsys)
    add(file, "free", capsys=capsys)
    assert main(["list", str(file)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "agents: 20 sessions at a time, 100 begun a minute",
        "free: any number of sessions at a time",
    ]


def test_remove_leaves_comments_order_and_mode(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("one", "two", "three"):
        add(file, name, capsys=capsys)
    lines = file.read_text().splitlines()
    file.write_text(
        "\n".join([*lines[:2], "# the second", *lines[2:]])
    )  # and no newline at the end
    file.chmod(0o640)
    assert main(["remove", str(file), "two"]) == 0
    assert file.read_text().splitlines() == [*lines[:2], "# the second", lines[3]]
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    add(file, "four", capsys=capsys)
    assert [token.name for token in parse_tokens(file.read_text())] == ["one", "three", "four"]
    assert sorted(path.name for path in file.parent.iterdir()) == ["tokens"]


def test_of_tokens_made_and_removed_at_once_none_is_lost(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = ([f"{when}{number}" for number in range(8)] for when in ("old", "new"))
    for name in ("first", *old):
        add(file, name, capsys=capsys)
    begin = threading.Barrier(len(old) + len(new))

    def run(command: str, name: str) -> int:
        begin.wait()
        return main([command, str(file), name])

    with ThreadPoolExecutor(begin.parties) as pool:
        statuses = [pool.submit(run, "remove", name) for name in old]
        statuses += [pool.submit(run, "add", name) for name in new]
        assert {status.result() for status in statuses} == {0}
    tokens = parse_tokens(file.read_text())
    assert {token.name for token in tokens} == {"first", *new}
    secrets = re.findall(r"ew_[\w-]{43}", capsys.readouterr().out)  # lines of threads may mix
    digests = {secret_digest(secret) for secret in secrets}
    assert digests == {token.digest for token in tokens if token.name in new}


def test_what_cannot_be_done_is_one_line_and_changes_nothing(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    add(file, "one", capsys=capsys)
    before = file.read_bytes()
    for argv, message in (
        (["add", str(file), "one"], "there is a token 'one' already"),
        (["add", str(file), "a b"], "a name is up to"),
        (["remove", str(file), "two"], "has no token 'two'"),
        (["list", str(file.parent / "none")], "cannot read the token file"),
        (["remove", str(file.parent / "none"), "one"], "cannot read the token file"),
        (["add", str(file.parent / "none" / "tokens"), "one"], "No such file"),
    ):
        assert main(argv) == 1
        out, err = capsys.readouterr()
        assert out == ""
        assert message in err
        assert err.count("\n") == 1
    assert file.read_bytes() == before

    def no_room(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tokens_command.os, "fsync", no_room)
    assert main(["add", str(file), "two"]) == 1
    assert "No space left" in capsys.readouterr().err
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == ["tokens"]


@pytest.mark.parametrize("value", ["0", "-1", "1000001", "many"])
def test_limits_that_are_none(file: Path, value: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["add", str(file), "one", "--max-sessions", value])
    assert caught.value.code == 2
