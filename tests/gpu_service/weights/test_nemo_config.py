"""model_config.yaml: the same sizes as Hugging Face's, and every setting that we can not run."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from gpu_service.errors import ModelFileError
from gpu_service.weights import nemo_config
from gpu_service.weights.nemo_config import from_nemo, parse_yaml

from .checkpoints import NEMO_CONFIG, PIECES, copied, nemo_sizes
from .checkpoints import nemo_config as nemo_values

WHERE = "model_config.yaml"


def changed(path: str, value: Any) -> dict[str, Any]:
    """NEMO_CONFIG with one field, "section.section.field", changed; None removes it."""
    values = copied(NEMO_CONFIG)
    *sections, field = path.split(".")
    target = values
    for section in sections:
        target = target[section]
    if value is None:
        del target[field]
    else:
        target[field] = value
    return values


def read(values: dict[str, Any]) -> Any:
    return from_nemo(parse_yaml(yaml.safe_dump(values).encode(), WHERE))


def test_nemos_sizes_are_hugging_faces() -> None:
    assert read(NEMO_CONFIG) == (nemo_sizes(), None)


def test_labels_are_the_vocabulary_and_its_size() -> None:
    sizes, labels = read(nemo_values(labels=[*PIECES, "more"]))
    assert labels == (*PIECES, "more")
    assert (sizes.vocabulary_size, sizes.blank_id) == (7, 7)


def test_durations_and_the_most_symbols_may_stand_elsewhere() -> None:
    values = changed("decoding.durations", None)
    values["model_defaults"] = {"tdt_durations": [0, 2, 4, 6, 8]}
    values["decoding"]["greedy"] = {"max_symbols": None, "max_symbols_per_step": 7}
    sizes, _ = read(values)
    assert (sizes.durations, sizes.max_symbols) == ((0, 2, 4, 6, 8), 7)
    for greedy in (None, {}):
        sizes, _ = read(changed("decoding.greedy", greedy))
        assert sizes.max_symbols == nemo_config.DEFAULT_MAX_SYMBOLS


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("preprocessor.normalize", "NA"),
        ("preprocessor.features", 80),
        ("preprocessor.window_stride", 0.02),
        ("preprocessor.sample_rate", 8000),
        ("preprocessor.log", False),
        ("encoder.feat_in", 80),
        ("encoder.use_bias", True),
        ("encoder.xscaling", True),
        ("encoder.subsampling", "striding"),
        ("encoder.subsampling_factor", 4),
        ("encoder.causal_downsampling", True),
        ("encoder.reduction", "pooling"),
        ("encoder.self_attention_model", "rel_pos_local_attn"),
        ("encoder.att_context_size", [70, 13]),
        ("encoder.att_context_style", "chunked_limited"),
        ("encoder.untie_biases", False),
        ("encoder.conv_norm_type", "layer_norm"),
        ("encoder.conv_context_size", "causal"),
        ("encoder.d_model", "${model.d_model}"),
        ("encoder.n_heads", 5),
        ("encoder.ff_expansion_factor", 0),
        ("decoder.prednet.pred_hidden", 9),
        ("decoder.prednet.pred_rnn_layers", True),
        ("joint.jointnet.joint_hidden", 9),
        ("joint.jointnet.activation", "tanh"),
        ("joint.num_extra_outputs", 0),
        ("decoding.durations", [0, 1]),
        ("labels", []),
        ("labels", ["a", 1]),
    ],
)
def test_a_model_that_computes_otherwise_is_refused_by_name(path: str, value: Any) -> None:
    field = path.rpartition(".")[2]
    with pytest.raises(ModelFileError, match=rf"^model_config\.yaml: .*({field}|width|joint)"):
        read(changed(path, value))


@pytest.mark.parametrize(
    "path",
    [
        "preprocessor",
        "preprocessor.normalize",
        "encoder.use_bias",  # NeMo's own default for these two is what we can not run
        "encoder.xscaling",
        "encoder.d_model",
        "decoder.prednet",
        "joint.num_classes",
        "joint.num_extra_outputs",
        "decoding",
    ],
)
def test_a_missing_field_is_named(path: str) -> None:
    with pytest.raises(ModelFileError, match=f"{path} is missing"):
        read(changed(path, None))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"just text",
        b"- 1\n- 2",
        b"a: [1",
        b"\xff\xfe\x00",
        b"a: !!python/object/apply:os.system ['true']",
        b"a: &a {x: 1}\nb: {<<: *a}",
        b"[" * 20_000,
        b"a: 1" + b"0" * 10_000,
        b"2001-99-99: 1",
    ],
)
def test_what_is_not_a_plain_mapping_is_refused(text: bytes) -> None:
    with pytest.raises(ModelFileError, match=r"^model_config\.yaml "):
        parse_yaml(text, WHERE)


def test_aliases_that_stand_for_more_than_any_memory_are_never_written_out() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 20)]
    fields = parse_yaml("\n".join(lines).encode(), WHERE)
    with pytest.raises(ModelFileError) as refused:
        fields.section("a19")
    assert len(str(refused.value)) < 2000


def test_a_huge_file_is_refused_before_it_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nemo_config, "MAX_YAML_BYTES", 10)
    with pytest.raises(ModelFileError, match="larger than"):
        parse_yaml(b"a: 1\nb: 23\n", WHERE)
