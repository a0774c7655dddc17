"""Each thing that prepare() folds equals the plain formula with the checkpoint's own tensors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from gpu_service.weights.parakeet_checkpoint import ParakeetCheckpoint, load_checkpoint
from gpu_service.weights.parakeet_weights import ParakeetWeights, position_table, prepare

from .checkpoints import PIECES, config, random_arrays, sentencepiece, write_folder

MAX_FRAMES = 9
LAYER = "encoder.layers.1."
Array = NDArray[np.float64]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> ParakeetCheckpoint:
    folder = write_folder(tmp_path_factory.mktemp("model"), random_arrays(config(), seed=5))
    (folder / "tokenizer.model").write_bytes(sentencepiece(PIECES))
    return load_checkpoint(str(folder))


@pytest.fixture(scope="module")
def weights(checkpoint: ParakeetCheckpoint) -> ParakeetWeights:
    return prepare(checkpoint, MAX_FRAMES)


def stored(checkpoint: ParakeetCheckpoint, name: str) -> Array:
    return checkpoint.tensor(LAYER + name).astype(np.float64)


def frames(width: int, count: int = 7) -> Array:
    return np.random.default_rng(1).standard_normal((count, width))


def test_the_names_and_shapes_are_those_that_engines_ask_for(weights: ParakeetWeights) -> None:
    shapes = {name: array.shape for name, array in weights.encoder.items()}
    norms = ("feed_forward1", "self_att", "conv", "feed_forward2", "out")
    expected = {
        "subsampling.0.weight": (4, 1, 3, 3),
        "subsampling.2.weight": (4, 1, 3, 3),
        "subsampling.3.weight": (4, 4, 1, 1),
        "subsampling.5.weight": (4, 1, 3, 3),
        "subsampling.6.weight": (4, 4, 1, 1),
        "subsampling.linear.weight": (12, 64),
        "subsampling.linear.bias": (12,),
        "projector.weight": (8, 12),
        "projector.bias": (8,),
    }
    expected |= {f"subsampling.{number}.bias": (4,) for number in (0, 2, 3, 5, 6)}
    for layer in ("layers.0", "layers.1"):
        expected |= {
            f"{layer}.norm_{norm}.{w}": (12,) for norm in norms for w in ("weight", "bias")
        }
        for number in (1, 2):
            expected[f"{layer}.feed_forward{number}.linear1.weight"] = (20, 12)
            expected[f"{layer}.feed_forward{number}.linear2.weight"] = (12, 20)
        expected |= {
            f"{layer}.self_attn.qkv.weight": (36, 12),
            f"{layer}.self_attn.bias_u": (3, 4),
            f"{layer}.self_attn.bias_v": (3, 4),
            f"{layer}.self_attn.o_proj.weight": (12, 12),
            f"{layer}.self_attn.positions": (2 * MAX_FRAMES - 1, 12),
            f"{layer}.conv.pointwise1.weight": (24, 12),
            f"{layer}.conv.depthwise.weight": (12, 5),
            f"{layer}.conv.depthwise.bias": (12,),
            f"{layer}.conv.pointwise2.weight": (12, 12),
        }
    assert shapes == expected
    assert {array.dtype.name for array in weights.encoder.values()} == {"float32"}
    assert all(array.flags.c_contiguous for array in weights.encoder.values())
    assert weights.num_bytes == 4 * sum(int(np.prod(shape)) for shape in expected.values())
    assert weights.vocabulary == PIECES
    assert weights.max_frames == MAX_FRAMES


def test_what_needs_no_folding_stays_in_the_file(
    checkpoint: ParakeetCheckpoint, weights: ParakeetWeights
) -> None:
    for name, source in (
        ("layers.1.feed_forward1.linear1.weight", LAYER + "feed_forward1.linear1.weight"),
        ("layers.1.conv.pointwise1.weight", LAYER + "conv.pointwise_conv1.weight"),
        ("layers.1.self_attn.o_proj.weight", LAYER + "self_attn.o_proj.weight"),
        ("subsampling.linear.weight", "encoder.subsampling.linear.weight"),
    ):
        assert np.shares_memory(weights.encoder[name], checkpoint.tensor(source)), name
        assert np.array_equal(weights.encoder[name].ravel(), checkpoint.tensor(source).ravel())


@pytest.mark.parametrize("name", ["feed_forward1", "feed_forward2"])
def test_the_half_step_of_the_residual_is_in_the_second_matrix(
    checkpoint: ParakeetCheckpoint, weights: ParakeetWeights, name: str
) -> None:
    x = frames(20).astype(np.float32)
    plain = np.float32(0.5) * (x @ checkpoint.tensor(f"{LAYER}{name}.linear2.weight").T)
    assert np.array_equal(x @ weights.encoder[f"layers.1.{name}.linear2.weight"].T, plain)


def test_q_k_and_v_are_the_rows_of_one_matrix(
    checkpoint: ParakeetCheckpoint, weights: ParakeetWeights
) -> None:
    x = frames(12)
    together = x @ weights.encoder["layers.1.self_attn.qkv.weight"].T
    for index, name in enumerate("qkv"):
        alone = x @ stored(checkpoint, f"self_attn.{name}_proj.weight").T
        assert np.allclose(together[:, 12 * index : 12 * (index + 1)], alone, atol=1e-12)


def test_the_batch_norm_is_in_the_depthwise_convolution(
    checkpoint: ParakeetCheckpoint, weights: ParakeetWeights
) -> None:
    x = np.pad(frames(12, 10), ((2, 2), (0, 0)))
    kernel = stored(checkpoint, "conv.depthwise_conv.weight")[:, 0].T  # (K, D)
    plain = np.stack([(x[t : t + 5] * kernel).sum(axis=0) for t in range(10)])
    mean, variance = (stored(checkpoint, f"conv.norm.running_{n}") for n in ("mean", "var"))
    plain = (plain - mean) / np.sqrt(variance + 1e-5)
    plain = plain * stored(checkpoint, "conv.norm.weight") + stored(checkpoint, "conv.norm.bias")
    folded_kernel = weights.encoder["layers.1.conv.depthwise.weight"].T
    folded = np.stack([(x[t : t + 5] * folded_kernel).sum(axis=0) for t in range(10)])
    folded += weights.encoder["layers.1.conv.depthwise.bias"]
    assert np.allclose(folded, plain, atol=1e-5)


def test_the_position_table_is_sine_and_cosine_of_descending_positions() -> None:
    table = position_table(4, 6)
    assert table.shape == (7, 6)
    for row, position in enumerate((3, 2, 1, 0, -1, -2, -3)):
        for pair in range(3):
            angle = position / 10_000 ** (2 * pair / 6)
            assert table[row, 2 * pair] == pytest.approx(np.sin(angle), abs=1e-7)
            assert table[row, 2 * pair + 1] == pytest.approx(np.cos(angle), abs=1e-7)


def test_a_longer_table_has_the_shorter_one_in_its_middle() -> None:
    assert np.array_equal(position_table(50, 8)[40:-40], position_table(10, 8))


def test_positions_are_projected(checkpoint: ParakeetCheckpoint, weights: ParakeetWeights) -> None:
    projection = stored(checkpoint, "self_attn.relative_k_proj.weight")
    plain = position_table(MAX_FRAMES, 12).astype(np.float64) @ projection.T
    assert np.allclose(weights.encoder["layers.1.self_attn.positions"], plain, atol=1e-5)


def test_the_decoder_has_its_tensors_with_merged_biases(
    checkpoint: ParakeetCheckpoint, weights: ParakeetWeights
) -> None:
    decoder = weights.decoder
    assert np.array_equal(decoder.embedding, checkpoint.tensor("decoder.embedding.weight"))
    assert np.array_equal(decoder.head_weight, checkpoint.tensor("joint.head.weight"))
    assert np.array_equal(decoder.head_bias, checkpoint.tensor("joint.head.bias"))
    name = "decoder.decoder_projector"
    assert np.array_equal(decoder.projector_weight, checkpoint.tensor(f"{name}.weight"))
    assert np.array_equal(decoder.projector_bias, checkpoint.tensor(f"{name}.bias"))
    for index, layer in enumerate(decoder.lstm):
        lstm = {
            f"{part}_{kind}": checkpoint.tensor(f"decoder.lstm.{part}_{kind}_l{index}")
            for part in ("weight", "bias")
            for kind in ("ih", "hh")
        }
        assert np.array_equal(layer.w_input, lstm["weight_ih"])
        assert np.array_equal(layer.w_hidden, lstm["weight_hh"])
        x, hidden = frames(8, 1).astype(np.float32), frames(8, 2).astype(np.float32)[:1]
        plain = x @ lstm["weight_ih"].T + lstm["bias_ih"] + hidden @ lstm["weight_hh"].T
        plain = plain + lstm["bias_hh"]
        merged = x @ layer.w_input.T + hidden @ layer.w_hidden.T + layer.bias
        assert np.allclose(merged, plain, atol=1e-5)
    assert (decoder.blank_id, decoder.durations, decoder.max_symbols) == (6, (0, 1, 2, 3, 4), 10)
    assert len(decoder.lstm) == 2


def test_a_table_for_no_frames_is_our_mistake(checkpoint: ParakeetCheckpoint) -> None:
    with pytest.raises(ValueError, match="max_frames"):
        prepare(checkpoint, 0)


def test_a_checkpoint_in_half_precision_becomes_float32(tmp_path: Path) -> None:
    arrays = {name: a.astype(np.float16) for name, a in random_arrays(config()).items()}
    weights = prepare(load_checkpoint(str(write_folder(tmp_path, arrays))), MAX_FRAMES)
    assert {array.dtype.name for array in weights.encoder.values()} == {"float32"}
    assert weights.decoder.embedding.dtype == np.float32
