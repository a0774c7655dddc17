"""One Whisper model in every form is the same model; a model with anything wrong is none."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from gpu_service.errors import ModelFileError, ModelNotFoundError
from gpu_service.weights.whisper_checkpoint import WhisperCheckpoint, load_whisper
from gpu_service.weights.whisper_config import expected_shapes
from tests.fixtures.whisper.random_checkpoint import (
    Arrays,
    ct2_variables,
    model_bin,
    random_arrays,
    sizes,
    write_ct2_folder,
    write_folder,
)

from .hub_server import hub_server

NAME = "decoder.layers.1.encoder_attn.v_proj.weight"


def assert_holds(checkpoint: WhisperCheckpoint, arrays: Arrays, tolerance: float = 0.0) -> None:
    assert set(checkpoint.tensors) == set(expected_shapes(checkpoint.config))
    for name, array in arrays.items():
        assert np.allclose(checkpoint.tensor(name), array, rtol=0, atol=tolerance), name


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def change(folder: Path, name: str, **values: Any) -> None:
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize("multilingual", [True, False])
def test_both_forms_are_the_same_model(tmp_path: Path, multilingual: bool) -> None:
    config = sizes(multilingual=multilingual)
    folder = write_folder(tmp_path / "mine", multilingual=multilingual)
    first = load_whisper(str(folder))
    second = load_whisper(str(write_ct2_folder(tmp_path / "ct2", multilingual=multilingual)))
    assert first.config == second.config == config
    assert first.vocabulary == second.vocabulary
    assert first.vocabulary.is_multilingual is multilingual
    assert (first.model_id, first.source.kind) == ("mine", "Hugging Face folder")
    assert second.source.kind == "CTranslate2 folder"
    assert first.num_parameters == second.num_parameters
    for checkpoint in (first, second):
        assert_holds(checkpoint, random_arrays(config))


def test_float32_is_not_copied(tmp_path: Path) -> None:
    checkpoint = load_whisper(str(write_folder(tmp_path)))
    assert np.shares_memory(checkpoint.tensor(NAME), checkpoint.tensor(NAME))


def test_int8_is_widened_by_its_scales(tmp_path: Path) -> None:
    checkpoint = load_whisper(str(write_ct2_folder(tmp_path, int8=True)))
    assert_holds(checkpoint, random_arrays(sizes()), tolerance=0.03)


def test_shards_halves_and_a_stored_head_are_read(tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    arrays = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    arrays["proj_out.weight"] = arrays["model.decoder.embed_tokens.weight"].copy()
    halves = {name: array.astype(np.float16) for name, array in arrays.items()}
    names, weight_map = sorted(halves), {}
    for index, part in enumerate((names[::2], names[1::2])):
        file = f"model-{index + 1:05d}-of-00002.safetensors"
        save_file({name: halves[name] for name in part}, folder / file)
        weight_map |= dict.fromkeys(part, file)
    index_file = folder / "model.safetensors.index.json"
    index_file.write_text(json.dumps({"weight_map": weight_map}))
    assert_holds(load_whisper(str(folder)), random_arrays(sizes()), tolerance=3e-3)


def test_the_embedded_model_is_found_by_its_name() -> None:
    checkpoint = load_whisper("tiny.en")
    assert (checkpoint.model_id, checkpoint.num_parameters) == ("tiny.en", 37_760_256)
    assert checkpoint.tensor("decoder.embed_tokens.weight").shape == (51864, 384)


# ------------------------------------------------------------------- the hub


def test_either_form_comes_from_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unwanted = {"pytorch_model.bin": b"x", "model.fp32-00001-of-00002.safetensors": b"x"}
    repositories = {
        "owner/whisper": files_of(write_folder(tmp_path / "a")) | unwanted,
        "owner/ct2": files_of(write_ct2_folder(tmp_path / "b")),
        "owner/other": {"config.json": b'{"model_type": "bert"}', "model.safetensors": b"x"},
        "owner/none": {"README.md": b"x"},
    }
    with hub_server(repositories, tmp_path / "cache", monkeypatch) as server:
        with pytest.raises(ModelNotFoundError, match="owner/whisper is not in"):
            load_whisper("owner/whisper", download=False)
        assert load_whisper("owner/whisper").source.kind == "Hugging Face folder"
        assert sorted(server.fetched) == sorted(
            ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json"]
        )
        assert load_whisper("owner/ct2").source.kind == "CTranslate2 folder"
        assert load_whisper("owner/ct2", download=False).model_id == "owner/ct2"
        with pytest.raises(ModelFileError, match="model_type is 'bert'"):
            load_whisper("owner/other")
        with pytest.raises(ModelNotFoundError, match=r"neither .* nor CTranslate2's model\.bin"):
            load_whisper("owner/none")


# ------------------------------------------------------------- what is wrong


def test_a_name_that_is_none_says_what_names_are() -> None:
    with pytest.raises(ModelNotFoundError, match=r"name a folder with config\.json"):
        load_whisper("nothing")


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_missing_file_is_named(tmp_path: Path, file: str) -> None:
    folder = write_folder(tmp_path)
    (folder / file).unlink()
    with pytest.raises(ModelNotFoundError, match=f"no {file}"):
        load_whisper(str(folder))


def test_missing_and_wrong_tensors_are_listed_together(tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    arrays = load_file(folder / "model.safetensors")
    del arrays["model.decoder.layer_norm.bias"]
    arrays["model." + NAME] = np.zeros((3, 4), np.float32)
    arrays["model.encoder.conv1.bias"] = np.zeros(128, np.int32)
    arrays["model.encoder.layers.0.self_attn.k_proj.bias"] = np.zeros(128, np.float32)
    save_file(arrays, folder / "model.safetensors")
    with pytest.raises(ModelFileError) as refused:
        load_whisper(str(folder))
    message = str(refused.value)
    assert "decoder.layer_norm.bias [128] is missing" in message
    assert f"{NAME} is [3, 4], not [128, 128]" in message
    assert "encoder.conv1.bias is of type I32" in message
    assert "k_proj.bias is not expected" in message


def test_a_long_list_is_cut(tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    save_file({"a": np.zeros(1, np.float32)}, folder / "model.safetensors")
    with pytest.raises(ModelFileError, match=r"and \d+ more"):
        load_whisper(str(folder))


def test_a_model_of_other_features_is_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    (folder / "preprocessor_config.json").write_text('{"feature_size": 80}')
    with pytest.raises(ModelFileError, match="feature_size is 80"):
        load_whisper(str(folder))


def test_a_tensor_that_is_asked_for_by_another_name_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="no tensor x"):
        load_whisper(str(write_folder(tmp_path))).tensor("x")


@pytest.mark.parametrize(
    ("name", "value", "what"),
    [
        ("decoder/layer_0/attention/linear_1/weight", np.zeros((5, 128), np.float32), "linear_1"),
        ("decoder/embeddings/weight", np.zeros(4, np.float32), "sizes"),
        ("decoder/num_heads", np.array(3, np.int16), "sizes"),
        ("decoder/num_heads", np.array(-2, np.int16), "sizes"),
        ("encoder/num_heads", np.zeros(0, np.int16), "no number"),
        ("encoder/num_heads", np.array(np.inf, np.float32), "no number"),
        ("encoder/layer_0/ffn/linear_0/weight", np.array(1, np.float32), "sizes"),
        ("encoder/layer_0/self_attention/linear_0/bias", np.ones(384, np.float32), "bias of keys"),
    ],
)
def test_a_ctranslate2_file_of_another_shape_is_refused(
    tmp_path: Path, name: str, value: Any, what: str
) -> None:
    folder = write_ct2_folder(tmp_path)
    variables = ct2_variables(sizes(), random_arrays(sizes()), int8=False)
    (folder / "model.bin").write_bytes(model_bin({**variables, name: value}))
    with pytest.raises(ModelFileError, match=what):
        load_whisper(str(folder))


def test_another_kind_of_ctranslate2_model_is_refused(tmp_path: Path) -> None:
    folder = write_ct2_folder(tmp_path)
    variables = ct2_variables(sizes(), random_arrays(sizes()), int8=False)
    (folder / "model.bin").write_bytes(model_bin(variables, spec="TransformerSpec"))
    with pytest.raises(ModelFileError, match="not Whisper"):
        load_whisper(str(folder))


def test_a_tokenizer_beside_the_wrong_model_is_refused(tmp_path: Path) -> None:
    english = write_folder(tmp_path / "en", multilingual=False)
    change(english, "generation_config.json", no_timestamps_token_id=5)
    with pytest.raises(ModelFileError, match=r"generation_config\.json"):
        load_whisper(str(english))
    shutil.rmtree(english)
