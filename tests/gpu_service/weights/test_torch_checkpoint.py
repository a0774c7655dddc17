"""torch's files without torch: its own work, ours, and pickles that want to run something."""

from __future__ import annotations

import contextlib
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpu_service.errors import ModelFileError
from gpu_service.weights import torch_pickle
from gpu_service.weights.stored_tensor import StoredTensor, map_file
from gpu_service.weights.torch_checkpoint import read_torch_checkpoint

from . import torch_file
from .torch_file import number, numbers, storage, tensor, text, zip_of

ARRAYS = {
    "wide": np.arange(6, dtype=np.float32).reshape(2, 3),
    "half": np.array([1.5, -2.0], np.float16),
    "brain": np.array([0x3FC0, 0xC000], np.uint16),
    "counter": np.array(7, np.int64),
}


def read(data: bytes) -> dict[str, StoredTensor]:
    return read_torch_checkpoint(np.frombuffer(data, np.uint8), "model_weights.ckpt")


def read_pickle(data: bytes, **members: bytes) -> dict[str, StoredTensor]:
    """A checkpoint with this data.pkl and the storage 0 of four float32."""
    storages = {"a/data/0": np.arange(4, dtype=np.float32).tobytes()}
    return read(zip_of({"a/data.pkl": data, **storages, **members}))


def test_what_torch_itself_wrote_is_read() -> None:
    """torch_saved.ckpt: torch.save of torch 2.13, of tensors made of arange()."""
    path = Path(__file__).parent / "torch_saved.ckpt"
    tensors = read_torch_checkpoint(map_file(path), str(path))
    floats = {n: t.to_float32().tolist() for n, t in tensors.items() if n != "counter"}
    assert floats["single"] == [[0.0, 0.25, 0.5], [0.75, 1.0, 1.25]]
    assert floats["half"] == [1.5, -2.0]
    assert floats["brain"][:2] == [1.5, -2.0]
    assert floats["turned"] == [[0, 3], [1, 4], [2, 5]]  # a transposed view
    assert floats["shared_1"] == np.arange(8).reshape(2, 4).tolist()  # two views of one storage
    assert floats["shared_2"] == np.arange(8, 20).reshape(3, 4).tolist()
    assert floats["empty"] == []
    assert tensors["counter"].dtype == "I64"


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_every_type_is_found(method: int) -> None:
    tensors = read(torch_file.checkpoint(ARRAYS, method))
    assert list(tensors) == list(ARRAYS)
    assert tensors["wide"].to_float32().tolist() == ARRAYS["wide"].tolist()
    assert tensors["half"].to_float32().tolist() == [1.5, -2.0]
    assert tensors["brain"].to_float32().tolist() == [1.5, -2.0]


def test_stored_tensors_are_views_of_the_file() -> None:
    data = np.frombuffer(torch_file.checkpoint(ARRAYS), np.uint8)
    assert np.shares_memory(read_torch_checkpoint(data, "c")["wide"].data, data)


def test_things_that_are_no_tensors_are_passed_over() -> None:
    items = {"x": tensor("0", "FloatStorage", (4,), (1,)), "epoch": number(3), "none": b"N"}
    assert set(read_pickle(torch_file.state_dict(items))) == {"x"}


def system_call(command: str) -> bytes:
    """The pickle of os.system(command)."""
    return b"\x80\x02" + torch_file.SYSTEM + text(command) + b"\x85R."


def test_a_pickle_that_calls_os_system_is_refused_and_not_run(tmp_path: Path) -> None:
    witness = tmp_path / "it_ran"
    hostile = system_call(f"touch {witness}")
    with pytest.raises(ModelFileError, match=r"asks for os\.system; nothing of it was run"):
        read_pickle(hostile)
    assert not witness.exists()
    pickle.loads(hostile)  # the same bytes do run where nothing holds them back
    assert witness.exists()


@pytest.mark.parametrize(
    "code",
    [
        b"cbuiltins\neval\n",
        b"cbuiltins\ngetattr\n",
        b"cposix\nsystem\n",
        b"csubprocess\nPopen\n",
        b"ctorch\nload\n",
        b"ctorch._utils\n_rebuild_tensor\n",
        b"ccollections\nOrderedDict.__init__\n",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93",  # STACK_GLOBAL
    ],
)
def test_nothing_else_can_be_named(code: bytes) -> None:
    with pytest.raises(ModelFileError, match="asks for"):
        read_pickle(b"\x80\x04" + code + b".")


@pytest.mark.parametrize(
    ("code", "opcode"),
    [
        (b"(ios\nsystem\n", "INST"),
        (torch_file.SYSTEM + b"(o", "GLOBAL|OBJ"),
        (b"ccollections\nOrderedDict\n)\x81", "NEWOBJ"),
        (b"\x82\x01", "EXT1"),
        (b"Ppersistent\n", "PERSID"),
        (b"\x97", "NEXT_BUFFER"),
    ],
)
def test_opcodes_that_torch_does_not_write_are_refused(code: bytes, opcode: str) -> None:
    with pytest.raises(ModelFileError, match=f"uses ({opcode})"):
        read_pickle(b"\x80\x02" + code + b".")


FLOATS = storage("0", "FloatStorage", 4)


@pytest.mark.parametrize(
    "value",
    [
        tensor("0", "FloatStorage", (5,), (1,)),
        tensor("0", "FloatStorage", (4,), (1,), offset=1),
        tensor("0", "FloatStorage", (4,), (1,), offset=-1),
        tensor("0", "FloatStorage", (2, 2), (3, 1)),
        tensor("0", "FloatStorage", (2, 2), (1,)),
        tensor("0", "FloatStorage", (-2,), (1,)),
        tensor("0", "FloatStorage", (1 << 30, 1 << 30), (0, 0)),
        tensor("0", "DoubleStorage", (4,), (1,)),
        tensor("1", "FloatStorage", (4,), (1,)),
        tensor("../../../etc/passwd", "FloatStorage", (4,), (1,)),
        tensor("0", "QuantizedStorage", (4,), (1,)),
        torch_file.REBUILD + b")R",
        torch_file.REBUILD + b"(" + text("0") + number(0) + numbers((4,)) + numbers((1,)) + b"tR",
        torch_file.REBUILD + b"(" + FLOATS + text("0") + numbers((4,)) + numbers((1,)) + b"tR",
        torch_file.REBUILD + b"(" + FLOATS + number(0) + number(4) + numbers((1,)) + b"tR",
        torch_file.REBUILD + b"}" + text("_make") + number(0) + b"s" + b"b",  # BUILD onto ours
        text("storage") + b"Q",
        b"(" + text("module") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"tQ",
        b"r\xff\xff\xff\x7f",  # a memo index that asks for 16 GiB
        number(1) + b")R",
        b"h\x63",
        # Python's unpickler would put these in place of what was checked: shape, strides, slots.
        tensor("0", "FloatStorage", (4,), (1,)) + b"(N" + numbers((9,)) + numbers((0,)) + b"tb",
        tensor("0", "FloatStorage", (4,), (1,)) + b"N}" + text("shape") + numbers((9,)) + b"s\x86b",
        torch_file.ORDERED_DICT + b"(" + numbers((1, 2)) + b"ltb",
        b"ccollections\nOrderedDict\n(]tR",
        b"t",
        b"]" + number(1) + b"a" + number(1) + b"s",
        b"(" + number(1) + b"a",
        text("a") + number(1) + b"\x93",
    ],
)
def test_a_tensor_that_is_not_there_is_refused(value: bytes) -> None:
    with pytest.raises(ModelFileError, match=r"model_weights\.ckpt: "):
        read_pickle(torch_file.state_dict({"x": value}))


@pytest.mark.parametrize(
    "data", [b"", b"\x80", b"\x80\x02", b"\x80\x02].", b"\x80\x02K\x01.", b"."]
)
def test_something_else_is_no_state_dict(data: bytes) -> None:
    with pytest.raises(ModelFileError, match="model_weights"):
        read_pickle(data)


def test_attributes_of_a_dictionary_are_ignored() -> None:
    """Python's unpickler would let them hide its methods."""
    attributes = b"}" + text("items") + number(5) + b"sb"
    x = text("x") + tensor("0", "FloatStorage", (4,), (1,)) + b"s"
    tensors = read_pickle(b"\x80\x02" + torch_file.ORDERED_DICT + attributes + x + b".")
    assert set(tensors) == {"x"}


def test_lists_and_numbered_values_are_followed() -> None:
    """What newer torch writes, and what lies beside a state dict."""
    values = b"](" + number(1) + number(2) + b"e" + number(3) + b"a\x94" + b"h\x00\x85\x87"
    items = {"list": b"N" + values, "x": tensor("0", "FloatStorage", (4,), (1,))}
    assert set(read_pickle(torch_file.state_dict(items))) == {"x"}


def test_a_key_that_takes_for_ever_to_hash_is_refused() -> None:
    """A tuple of two references to a tuple of two references ... : 2**60 of them."""
    doubled = b")" + b"".join(bytes((0x71, i, 0x68, i, 0x86)) for i in range(60))
    with pytest.raises(ModelFileError, match="its keys are no names"):
        read_pickle(b"\x80\x02}" + doubled + b"Ns.")


def test_a_pickle_of_many_steps_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_pickle, "MAX_STEPS", 10)
    with pytest.raises(ModelFileError, match="more than 10 opcodes"):
        read(torch_file.checkpoint(ARRAYS))


def test_a_pickle_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_pickle, "MAX_PICKLE_BYTES", 10)
    with pytest.raises(ModelFileError, match="a pickle of"):
        read(torch_file.checkpoint(ARRAYS))


def test_the_container_is_checked() -> None:
    with pytest.raises(ModelFileError, match=r"torch 1\.6"):
        read(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.")  # how older versions begin
    with pytest.raises(ModelFileError, match=r"has 0 files data\.pkl"):
        read(zip_of({"a/data/0": b""}))
    with pytest.raises(ModelFileError, match=r"has 2 files data\.pkl"):
        read(zip_of({"a/data.pkl": b"", "b/data.pkl": b""}))
    with pytest.raises(ModelFileError, match="big-endian"):
        read_pickle(torch_file.state_dict({}), **{"a/byteorder": b"big"})


PICKLE = torch_file.members_of(ARRAYS)["data.pkl"]


@pytest.mark.filterwarnings("ignore:invalid escape:DeprecationWarning")  # pickletools' own
@given(st.integers(0, len(PICKLE) - 1), st.integers(0, 255))
@settings(max_examples=500)
def test_any_changed_byte_is_read_or_refused(position: int, value: int) -> None:
    changed = bytearray(PICKLE)
    changed[position] = value
    members = {**torch_file.members_of(ARRAYS), "data.pkl": bytes(changed)}
    with contextlib.suppress(ModelFileError), np.errstate(all="ignore"):
        for found in read(zip_of(members)).values():
            found.to_float32()
