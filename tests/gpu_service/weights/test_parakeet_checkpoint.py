"""One model in every form is the same model; a model with anything wrong is none."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

from gpu_service.errors import ModelFileError, ModelNotFoundError
from gpu_service.weights.nemo_names import MEL_BANK, WINDOW
from gpu_service.weights.parakeet_checkpoint import ParakeetCheckpoint, load_checkpoint
from gpu_service.weights.parakeet_config import expected_shapes

from . import torch_file
from .checkpoints import (
    CONFIG,
    NEMO_CONFIG,
    PIECES,
    Arrays,
    config,
    copied,
    nemo_arrays,
    nemo_members,
    nemo_sizes,
    random_arrays,
    sentencepiece,
    tar_of,
    write_folder,
    write_shards,
)
from .torch_file import zip_of

TINY = Path(__file__).parents[2] / "fixtures" / "parakeet" / "tiny"
NAME = "encoder.layers.1.conv.pointwise_conv2.weight"


def assert_holds(checkpoint: ParakeetCheckpoint, arrays: Arrays) -> None:
    assert set(checkpoint.names) == set(expected_shapes(checkpoint.config))
    for name in checkpoint.names:
        assert np.array_equal(checkpoint.tensor(name), arrays[name]), name


def write_nemo(tmp_path: Path, data: bytes) -> str:
    path = tmp_path / "model.nemo"
    path.write_bytes(data)
    return str(path)


# ---------------------------------------------------------------- whole models


def test_a_folder_is_read_under_its_name(tmp_path: Path) -> None:
    arrays = random_arrays(config())
    checkpoint = load_checkpoint(str(write_folder(tmp_path / "mine", arrays)))
    assert (checkpoint.model_id, checkpoint.config) == ("mine", config())
    assert (checkpoint.vocabulary, checkpoint.source.tokenizer) == (None, None)
    assert_holds(checkpoint, arrays)
    shapes = expected_shapes(config()).values()
    assert checkpoint.num_parameters == sum(int(np.prod(shape)) for shape in shapes)


def test_float32_is_not_copied(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(str(write_folder(tmp_path)))
    first, again = checkpoint.tensor(NAME), checkpoint.tensor(NAME)
    assert np.shares_memory(first, again)
    assert not first.flags.writeable


def test_half_precision_is_widened(tmp_path: Path) -> None:
    arrays = random_arrays(config())
    halves: Arrays = {name: array.astype(np.float16) for name, array in arrays.items()}
    assert_holds(load_checkpoint(str(write_folder(tmp_path, halves))), halves)


def test_shards_are_one_model(tmp_path: Path) -> None:
    arrays = random_arrays(config())
    checkpoint = load_checkpoint(str(write_shards(tmp_path, arrays)))
    assert_holds(checkpoint, arrays)
    assert len(checkpoint.source.files) == 3


def test_the_first_tokenizer_that_is_there_is_taken(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "vocab.txt").write_text("\n".join(PIECES[::-1]))
    assert load_checkpoint(str(tmp_path)).vocabulary == PIECES[::-1]
    (tmp_path / "tokenizer.model").write_bytes(sentencepiece(PIECES))
    assert load_checkpoint(str(tmp_path)).vocabulary == PIECES
    vocab = {piece.upper(): index for index, piece in enumerate(PIECES)}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocab}}))
    checkpoint = load_checkpoint(str(tmp_path))
    assert checkpoint.vocabulary == tuple(vocab)
    assert checkpoint.source.tokenizer == "tokenizer.json"


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "zip", "zip of a folder"])
def test_a_nemo_file_is_the_same_model(tmp_path: Path, kind: str) -> None:
    arrays = random_arrays(nemo_sizes())
    arrays["loss._loss.weight"] = np.zeros(3, np.float32)  # what only training needs
    members = nemo_members(arrays, **{"1a2b_tokenizer.model": sentencepiece(PIECES)})
    if kind == "zip of a folder":
        del members["model_weights.ckpt"]
        parts = torch_file.members_of(nemo_arrays(arrays))
        members |= {f"model_weights/{name}": data for name, data in parts.items()}
    writers = {"tar": tar_of, "tar.gz": lambda m: tar_of(m, "w:gz")}
    checkpoint = load_checkpoint(write_nemo(tmp_path, writers.get(kind, zip_of)(members)))
    assert (checkpoint.model_id, checkpoint.config) == ("model", nemo_sizes())
    assert (checkpoint.vocabulary, checkpoint.source.tokenizer) == (PIECES, "1a2b_tokenizer.model")
    assert_holds(checkpoint, arrays)


def test_labels_stand_in_for_a_tokenizer_before_vocab_txt_does(tmp_path: Path) -> None:
    members = nemo_members(**{"vocab.txt": "\n".join(PIECES[::-1]).encode()})
    assert load_checkpoint(write_nemo(tmp_path, tar_of(members))).vocabulary == PIECES[::-1]
    values = {**copied(NEMO_CONFIG), "labels": list(PIECES)}
    members["model_config.yaml"] = yaml.safe_dump(values).encode()
    checkpoint = load_checkpoint(write_nemo(tmp_path, tar_of(members)))
    assert checkpoint.vocabulary == PIECES
    assert checkpoint.source.tokenizer == "labels in model_config.yaml"
    del members["vocab.txt"], members["model_config.yaml"]
    members["model_config.yaml"] = yaml.safe_dump(NEMO_CONFIG).encode()
    assert load_checkpoint(write_nemo(tmp_path, tar_of(members))).vocabulary is None


@pytest.mark.skipif(not TINY.is_dir(), reason="the tiny reference checkpoint is not here")
def test_what_transformers_wrote_is_read() -> None:
    checkpoint = load_checkpoint(str(TINY))
    assert (checkpoint.config.width, checkpoint.config.num_layers) == (64, 2)
    assert checkpoint.vocabulary is None or len(checkpoint.vocabulary) == 64
    for name in checkpoint.names:
        assert np.isfinite(checkpoint.tensor(name)).all()


def test_a_name_that_is_none_says_what_names_are() -> None:
    with pytest.raises(
        ModelNotFoundError, match=r"name a folder .* a \.nemo file, or a repository"
    ):
        load_checkpoint("nothing")


# ------------------------------------------------------- the front end of NeMo


def test_a_stored_front_end_is_compared_with_ours(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    window = generator.uniform(0, 1, 400).astype(np.float32)
    bank = generator.uniform(0, 0.03, (128, 257)).astype(np.float32)
    arrays = random_arrays(nemo_sizes()) | {WINDOW: window, MEL_BANK: bank[None]}
    checkpoint = load_checkpoint(write_nemo(tmp_path, tar_of(nemo_members(arrays))))
    checkpoint.check_front_end(window + np.float32(1e-6), bank)
    with pytest.raises(ModelFileError, match=r"other features.*window"):
        checkpoint.check_front_end(window[:-1], bank)
    with pytest.raises(ModelFileError, match=r"other features.*fb"):
        checkpoint.check_front_end(window, bank * np.float32(1.01))


def test_without_a_stored_front_end_nothing_is_checked(tmp_path: Path) -> None:
    empty = np.zeros(0, np.float32)
    load_checkpoint(str(write_folder(tmp_path))).check_front_end(empty, empty)


# -------------------------------------------------------------- broken folders


def test_an_empty_folder_says_what_a_model_is(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"no config\.json .*model\.safetensors"):
        load_checkpoint(str(tmp_path))


def test_a_folder_without_weights_is_none(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ModelNotFoundError, match=r"no model\.safetensors"):
        load_checkpoint(str(tmp_path))


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b"\xff", b"[" * 100_000])
def test_a_config_that_is_no_json_object_is_refused(tmp_path: Path, text: bytes) -> None:
    (write_folder(tmp_path) / "config.json").write_bytes(text)
    with pytest.raises(ModelFileError, match=r"config\.json is not"):
        load_checkpoint(str(tmp_path))


def test_a_config_beyond_all_measure_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpu_service.weights.hugging_face_folder.MAX_JSON_BYTES", 10)
    with pytest.raises(ModelFileError, match="larger than"):
        load_checkpoint(str(write_folder(tmp_path)))


@pytest.mark.parametrize("keep", [4, 100, -1])
def test_truncated_weights_are_refused(tmp_path: Path, keep: int) -> None:
    path = write_folder(tmp_path) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelFileError, match=r"model\.safetensors"):
        load_checkpoint(str(tmp_path))


@pytest.mark.parametrize(
    ("file", "values"),
    [
        ("preprocessor_config.json", {"feature_size": 80}),
        ("preprocessor_config.json", {"hop_length": 128}),
        ("processor_config.json", {"feature_extractor": {"sampling_rate": 8000}}),
    ],
)
def test_a_model_of_other_features_is_refused(
    tmp_path: Path, file: str, values: dict[str, Any]
) -> None:
    (write_folder(tmp_path) / file).write_text(json.dumps(values))
    with pytest.raises(ModelFileError, match="Earwire needs"):
        load_checkpoint(str(tmp_path))
    (tmp_path / file).write_text("{}")
    load_checkpoint(str(tmp_path))


@pytest.mark.parametrize(
    "name", ["../outside.safetensors", "/etc/passwd", "a/b.safetensors", "", "..", 3]
)
def test_an_index_that_leads_elsewhere_is_refused(tmp_path: Path, name: Any) -> None:
    folder = write_shards(tmp_path / "model", random_arrays(config()))
    shutil.copy(folder / "model-00001-of-00002.safetensors", tmp_path / "outside.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(ModelFileError, match="no file of this folder"):
        load_checkpoint(str(folder))


def test_an_index_has_to_name_files_that_are_there(tmp_path: Path) -> None:
    folder = write_shards(tmp_path, random_arrays(config()))
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ModelNotFoundError, match=r"no model-00002-of.*1 of the 2"):
        load_checkpoint(str(folder))
    index = folder / "model.safetensors.index.json"
    for text in ("{}", '{"weight_map": 1}', '{"weight_map": {}}', '{"weight_map": {"a": [1]}}'):
        index.write_text(text)
        with pytest.raises(ModelFileError, match=r"index\.json"):
            load_checkpoint(str(folder))


def test_missing_and_wrong_tensors_are_listed_together(tmp_path: Path) -> None:
    arrays = random_arrays(config())
    del arrays["joint.head.bias"]
    arrays[NAME] = np.zeros((12, 11, 1), np.float32)
    arrays["encoder_projector.bias"] = np.zeros(8, np.int32)
    arrays["encoder.layers.0.self_attn.q_proj.bias"] = np.zeros(12, np.float32)
    with pytest.raises(ModelFileError) as refused:
        load_checkpoint(str(write_folder(tmp_path, arrays)))
    message = str(refused.value)
    assert "joint.head.bias [12] is missing" in message
    assert f"{NAME} is [12, 11, 1], not [12, 12, 1]" in message
    assert "encoder_projector.bias is of type I32" in message
    assert "self_attn.q_proj.bias is not expected" in message


def test_a_long_list_is_cut(tmp_path: Path) -> None:
    save_file({"a": np.zeros(1, np.float32)}, write_folder(tmp_path) / "model.safetensors")
    with pytest.raises(ModelFileError, match=r"and \d+ more") as refused:
        load_checkpoint(str(tmp_path))
    assert len(str(refused.value)) < 1500


def test_a_tensor_that_is_asked_for_by_another_name_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="no tensor x"):
        load_checkpoint(str(write_folder(tmp_path))).tensor("x")


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    (write_folder(tmp_path) / "tokenizer.model").write_bytes(sentencepiece(PIECES[1:]))
    with pytest.raises(ModelFileError, match="5 pieces, the model 6"):
        load_checkpoint(str(tmp_path))


# ---------------------------------------------------------- broken .nemo files


@pytest.mark.parametrize("missing", ["model_config.yaml", "model_weights.ckpt"])
def test_a_nemo_file_without_a_part_is_refused(tmp_path: Path, missing: str) -> None:
    members = nemo_members()
    del members[missing]
    with pytest.raises(ModelFileError, match=f"no {missing}"):
        load_checkpoint(write_nemo(tmp_path, tar_of(members)))


def test_a_nemo_file_that_would_run_a_command_does_not(tmp_path: Path) -> None:
    witness = tmp_path / "it_ran"
    command = torch_file.text(f"touch {witness}")
    hostile = torch_file.state_dict({"x": torch_file.SYSTEM + command + b"\x85R"})
    members = nemo_members() | {"model_weights.ckpt": zip_of({"a/data.pkl": hostile})}
    with pytest.raises(ModelFileError, match=r"os\.system; nothing of it was run"):
        load_checkpoint(write_nemo(tmp_path, tar_of(members)))
    assert not witness.exists()


def test_a_nemo_file_with_two_tensors_of_one_name_is_refused(tmp_path: Path) -> None:
    arrays = nemo_arrays(random_arrays(nemo_sizes()))
    arrays["joint.head.bias"] = arrays["joint.joint_net.2.bias"]
    members = nemo_members() | {"model_weights.ckpt": torch_file.checkpoint(arrays)}
    with pytest.raises(ModelFileError, match=r"two tensors for joint\.head\.bias"):
        load_checkpoint(write_nemo(tmp_path, tar_of(members)))


def test_a_tokenizer_beyond_all_measure_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpu_service.weights.nemo_file.MAX_VOCABULARY_BYTES", 10)
    members = nemo_members(**{"tokenizer.model": sentencepiece(PIECES)})
    with pytest.raises(ModelFileError, match="larger than"):
        load_checkpoint(write_nemo(tmp_path, tar_of(members)))


@pytest.mark.parametrize("field", list(CONFIG))
def test_a_config_without_a_field_is_refused(tmp_path: Path, field: str) -> None:
    values = {name: value for name, value in CONFIG.items() if name != field}
    with pytest.raises(ModelFileError, match=f"{field} is missing"):
        load_checkpoint(str(write_folder(tmp_path, values=values)))
