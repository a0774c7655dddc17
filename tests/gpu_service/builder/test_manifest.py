"""The manifest: what is read is what was written, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from gpu_service.builder.machine import of_encoder, read_machine
from gpu_service.builder.manifest import (
    Candidate,
    Manifest,
    check_files,
    differences,
    engine_key,
    file_records,
    is_engine_folder,
    read_manifest,
    write_manifest,
)
from gpu_service.errors import ModelFileError, ModelNotFoundError
from tests.gpu_service.cpu.parakeet_random import SMALL

from .fakes import H100


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "encoder.plan").write_bytes(b"a plan")
    manifest = Manifest(
        earwire="0.1.0", key="k", model_id="m", weights_sha256="0", config=SMALL, max_frames=24,
        max_batch=2, precision="fp16", encoder="tensorrt", machine=H100,
        candidates=(Candidate(encoder="tensorrt"),), files=file_records(tmp_path),
    )  # fmt: skip
    write_manifest(tmp_path, manifest)
    return tmp_path


def test_it_reads_what_it_wrote(folder: Path) -> None:
    manifest = read_manifest(folder)
    assert manifest.config == SMALL
    assert manifest.chosen.encoder == "tensorrt"
    assert is_engine_folder(folder)
    check_files(folder, manifest, ["encoder.plan"])


def test_a_folder_without_one_is_none(tmp_path: Path) -> None:
    assert not is_engine_folder(tmp_path)
    with pytest.raises(ModelNotFoundError, match=r"no engine folder.*earwire build"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 1}', '{"format": 1, "surprise": 2}'])
def test_a_damaged_one_is_an_error(folder: Path, text: str) -> None:
    (folder / "manifest.json").write_text(text)
    with pytest.raises(ModelFileError, match=r"damaged|of format None"):
        read_manifest(folder)


def test_another_format_is_an_error(folder: Path) -> None:
    (folder / "manifest.json").write_text('{"format": 2, "later": true}')
    with pytest.raises(ModelFileError, match="of format 2, not 1"):
        read_manifest(folder)


def test_files_are_compared(folder: Path) -> None:
    manifest = read_manifest(folder)
    (folder / "encoder.plan").write_bytes(b"a pl4n")
    read_manifest(folder)
    with pytest.raises(ModelFileError, match="not the file that was checked"):
        check_files(folder, manifest, ["encoder.plan"])
    with pytest.raises(ModelFileError, match="not the file that was checked"):
        check_files(folder, manifest, ["other.plan"])
    (folder / "encoder.plan").write_bytes(b"a")
    with pytest.raises(ModelFileError, match="has 1 bytes, not 6"):
        read_manifest(folder)
    (folder / "encoder.plan").unlink()
    with pytest.raises(ModelNotFoundError, match=r"no encoder\.plan"):
        read_manifest(folder)


def test_a_name_that_leaves_the_folder_is_refused(folder: Path) -> None:
    text = (folder / "manifest.json").read_text().replace("encoder.plan", "../encoder.plan")
    (folder / "manifest.json").write_text(text)
    with pytest.raises(ModelFileError, match="no file of its folder"):
        read_manifest(folder)


def test_differences_are_of_what_the_encoder_uses(folder: Path) -> None:
    manifest = msgspec.structs.replace(read_manifest(folder), machine=of_encoder(H100, "tensorrt"))
    assert differences(manifest, H100) == []
    other = msgspec.structs.replace(
        H100, gpu="NVIDIA H200", libraries=H100.libraries | {"tensorrt": "11.5", "cublas": "14"}
    )
    assert differences(manifest, other) == [
        "GPU NVIDIA H200 here, NVIDIA H100 80GB HBM3 then",
        "tensorrt 11.5 here, 11.4.0.106 then",
    ]


def test_the_key_is_of_everything(folder: Path) -> None:
    inputs = {"weights": "w", "buckets": [[1, 8]]}
    key = engine_key(H100, inputs)
    assert key == engine_key(H100, dict(reversed(inputs.items())))
    others = [
        engine_key(H100, inputs | {"weights": "v"}),
        engine_key(msgspec.structs.replace(H100, compute_capability="10.0"), inputs),
        engine_key(msgspec.structs.replace(H100, libraries={}), inputs),
    ]
    assert len({key, *others}) == 4


class _Device:
    name = "NVIDIA H100"
    compute_capability = (9, 0)
    driver_version = "13.0"


def test_this_machine_can_be_read() -> None:
    machine = read_machine(_Device())
    assert machine.gpu == "NVIDIA H100"
    assert machine.compute_capability == "9.0"
    assert machine.driver
    assert machine.libraries["earwire"][0].isdigit()
    assert set(of_encoder(machine, "cublas").libraries) < set(machine.libraries)
