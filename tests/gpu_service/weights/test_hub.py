"""The hub's cache: fetched from a small hub of our own, found, listed, removed, and offline."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gpu_service.errors import ModelFileError, ModelNotFoundError
from gpu_service.weights import hub
from gpu_service.weights.hugging_face_folder import read_config
from gpu_service.weights.parakeet_checkpoint import load_checkpoint

from .checkpoints import (
    PIECES,
    config,
    nemo_members,
    random_arrays,
    sentencepiece,
    tar_of,
    write_folder,
    write_shards,
)
from .hub_server import HubServer, hub_server, use_cache


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    arrays = random_arrays(config())
    whole = files_of(write_folder(tmp_path / "whole", arrays))
    nemo = tar_of(nemo_members())
    repositories = {
        "owner/both": whole
        | {
            "tokenizer.model": sentencepiece(PIECES),
            "model.nemo": nemo,
            "pytorch_model.bin": b"not wanted",
            "README.md": b"not wanted",
        },
        "owner/shards": files_of(write_shards(tmp_path / "shards", arrays)),
        "owner/only-nemo": {"model.nemo": nemo, "README.md": b"not wanted"},
        "owner/two-nemo": {"a.nemo": nemo, "b.nemo": nemo},
        "owner/readme": {"README.md": b"nothing here"},
        "owner/other": {"config.json": b'{"model_type": "bert"}', "model.safetensors": b"x"},
    }
    with hub_server(repositories, tmp_path / "cache", monkeypatch) as running:
        yield running


def test_a_configuration_comes_alone_and_none_is_none(server: HubServer) -> None:
    folder = hub.config_folder("owner/other")
    assert folder is not None
    assert [path.name for path in folder.iterdir()] == ["config.json"]
    for nothing in ("owner/only-nemo", "owner/readme", "owner/nowhere"):
        assert hub.config_folder(nothing) is None
    whole = hub.pull("owner/both", read_config)
    assert hub.config_folder("owner/both") == whole
    hub.pull("owner/only-nemo", read_config)
    assert hub.config_folder("owner/only-nemo") is None


def test_ids_are_an_owner_and_a_name() -> None:
    assert hub.is_hub_id("nvidia/parakeet-tdt-0.6b-v3")
    for name in ("parakeet", "a/b/c", "/a/b", "./a", "../b", "a/..", "a/b ", "a/", "~/b", ""):
        assert not hub.is_hub_id(name)


def test_only_what_we_read_is_fetched_and_only_once(server: HubServer) -> None:
    path = hub.pull("owner/both", read_config)
    wanted = ["config.json", "model.safetensors", "tokenizer.model"]
    assert sorted(server.fetched) == wanted
    assert hub.pull("owner/both", read_config) == path == hub.find_in_hub("owner/both")
    assert sorted(server.fetched) == wanted
    checkpoint = load_checkpoint("owner/both")
    assert (checkpoint.model_id, checkpoint.vocabulary) == ("owner/both", PIECES)


def test_shards_are_fetched_with_their_index(server: HubServer) -> None:
    hub.pull("owner/shards", read_config)
    assert sorted(server.fetched) == [
        "config.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    ]
    assert load_checkpoint("owner/shards", download=False).config == config()


def test_a_nemo_file_is_fetched_where_there_is_nothing_else(server: HubServer) -> None:
    path = hub.pull("owner/only-nemo", read_config)
    assert path.name == "model.nemo"
    assert server.fetched == ["model.nemo"]
    checkpoint = load_checkpoint("owner/only-nemo", download=False)
    assert checkpoint.source.kind == "NeMo archive"


def test_loading_fetches_what_is_not_there_unless_told_not_to(server: HubServer) -> None:
    with pytest.raises(ModelNotFoundError, match=r"owner/both is not in .*cache"):
        load_checkpoint("owner/both", download=False)
    assert server.fetched == []
    assert np.isfinite(load_checkpoint("owner/both").tensor("joint.head.bias")).all()


@pytest.mark.parametrize("hub_id", ["owner/readme", "owner/two-nemo"])
def test_a_repository_without_one_model_says_so(server: HubServer, hub_id: str) -> None:
    with pytest.raises(ModelNotFoundError, match=f"{hub_id} has neither"):
        hub.pull(hub_id, read_config)


def test_a_repository_that_does_not_exist_is_named(server: HubServer) -> None:
    with pytest.raises(ModelNotFoundError, match="owner/nothing is not in"):
        hub.pull("owner/nothing", read_config)


def test_without_a_network_the_error_names_files_and_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_cache(tmp_path, monkeypatch)
    with pytest.raises(ModelNotFoundError) as refused:
        load_checkpoint("nvidia/parakeet-tdt-0.6b-v3")
    message = str(refused.value)
    assert "config.json, model.safetensors and tokenizer.json" in message
    assert "https://huggingface.co/nvidia/parakeet-tdt-0.6b-v3/tree/main" in message
    assert "put them into a folder" in message
    assert str(tmp_path) in message
    assert "\n" not in message


def test_what_was_fetched_is_used_without_a_network(
    server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.pull("owner/both", read_config)
    use_cache(hub.cache_folder(), monkeypatch)
    assert load_checkpoint("owner/both").model_id == "owner/both"


def test_models_in_the_cache_are_listed_with_their_sizes(server: HubServer) -> None:
    assert hub.cached_models() == []
    for hub_id in ("owner/shards", "owner/both"):
        hub.pull(hub_id, read_config)
    listed = hub.cached_models()
    assert [model.hub_id for model in listed] == ["owner/both", "owner/shards"]
    assert listed[0].num_bytes == hub.cached_bytes("owner/both") > 10_000
    assert load_checkpoint(str(listed[0].path)).config == config()


def test_the_weights_of_another_architecture_are_not_fetched(server: HubServer) -> None:
    with pytest.raises(ModelFileError, match="model_type is 'bert'"):
        load_checkpoint("owner/other")
    assert server.fetched == ["config.json"]


def test_a_removed_model_is_gone(server: HubServer) -> None:
    hub.pull("owner/both", read_config)
    hub.pull("owner/shards", read_config)
    hub.remove("owner/both")
    assert hub.find_in_hub("owner/both") is None
    assert [model.hub_id for model in hub.cached_models()] == ["owner/shards"]
    with pytest.raises(ModelNotFoundError, match="owner/both is not in"):
        hub.remove("owner/both")


def test_nothing_can_be_removed_from_no_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_cache(tmp_path / "none", monkeypatch)
    with pytest.raises(ModelNotFoundError, match="is not in"):
        hub.cached_bytes("owner/both")
