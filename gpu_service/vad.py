"""Vad: Silero's voice activity model, one ONNX Runtime call for all streams.

The file (silero_vad_v6.onnx, MIT) travels in the faster-whisper wheel. Its graph takes successive
frames of ONE stream: the leading dimension is time and runs through the LSTM. `_batched_graph`
turns that dimension into rows, so that one call takes one frame of each of B streams; measured on
one thread 106 us a frame for B = 1 and 64 us for B = 16, and bit for bit the same probabilities
in every batch (tests/gpu_service/test_vad.py holds that: the determinism contract needs it).

It knows frames and rows, no stream positions and no thresholds (endpointer.py). The service calls.

Shapes: B rows of this step, R rows in all.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .endpointer import FRAME_SAMPLES
from .errors import ModelFileError, ModelNotFoundError

CONTEXT_SAMPLES = 64  # of the frame before, in front of each frame: 4 ms
STATE_SIZE = 128
MODEL_FILE_NAME = "silero_vad_v6.onnx"
MODEL_SHA256 = "4cbf549b8326f60f80f2536d9eefeb450a9abe83365a098031c89719f1be17d2"
MAX_MODEL_BYTES = 16 << 20
REMEDY = "pip install 'earwire[tiny]', or name the file with --vad-model PATH"


def find_model_file() -> Path:
    """The file inside the installed faster-whisper, found without importing that package.

    Raises ModelNotFoundError.
    """
    try:
        files = importlib.metadata.files("faster-whisper") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        path = Path(str(file.locate()))
        if file.name == MODEL_FILE_NAME and path.is_file():
            return path
    raise ModelNotFoundError(f"no {MODEL_FILE_NAME} on this machine", REMEDY)


def read_model_file(path: Path | None = None) -> bytes:
    """The model's bytes, checked: a `path` of the user's must be this very model too.

    Raises ModelNotFoundError, ModelFileError.
    """
    path = path or find_model_file()
    try:
        if path.stat().st_size > MAX_MODEL_BYTES:
            raise ModelFileError(f"{path} is larger than a Silero model", REMEDY)
        data = path.read_bytes()
    except OSError as error:
        raise ModelNotFoundError(f"{path}: {error.strerror}", REMEDY) from error
    if hashlib.sha256(data).hexdigest() != MODEL_SHA256:
        raise ModelFileError(f"{path} is not {MODEL_FILE_NAME} (sha256 differs)", REMEDY)
    return data


def _batched_graph(data: bytes) -> bytes:
    """The graph with its leading dimension as rows (h and c: (1, B, 128)), not as time.

    The LSTM's input goes from [N, 128, 1] -> [N, 1, 128] (N steps of one row) to [1, N, 128]
    (one step of N rows); its output is [1, 1, N, 128], and the Squeeze (axis 1) and the Transpose
    (1, 2, 0) behind it make [N, 128, 1] of that as they did before.
    """
    import onnx

    model = onnx.load_model_from_string(data)
    graph = model.graph
    lstm = next(node for node in graph.node if node.op_type == "LSTM")
    transpose = next(node for node in graph.node if node.output[0] == lstm.input[0])
    del transpose.attribute[:]
    transpose.attribute.append(onnx.helper.make_attribute("perm", [2, 0, 1]))
    for value in [*graph.input[1:], *graph.output[1:]]:
        value.type.tensor_type.shape.dim[1].dim_param = "rows"
    return bytes(model.SerializeToString())


class Vad:
    """Speech probabilities of up to `num_rows` streams, a state row each (1.3 KB).

    A row starts in the state of a new stream; reset() puts it back there.
    """

    def __init__(self, num_rows: int, path: Path | None = None) -> None:
        """Load the model. Raises ModelNotFoundError, ModelFileError."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # the graph is too small for a second thread to pay
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors only
        self._session: Any = onnxruntime.InferenceSession(
            _batched_graph(read_model_file(path)), options, providers=["CPUExecutionProvider"]
        )
        self.num_rows = num_rows
        self._hidden: NDArray[np.float32] = np.zeros((1, num_rows, STATE_SIZE), np.float32)
        self._cell: NDArray[np.float32] = np.zeros((1, num_rows, STATE_SIZE), np.float32)
        self._context: NDArray[np.float32] = np.zeros((num_rows, CONTEXT_SAMPLES), np.float32)

    def step(self, rows: NDArray[np.intp], frames: NDArray[np.float32]) -> NDArray[np.float32]:
        """The speech probability of the next frame of each row.

        Args:
            rows: (B,), each at most once.
            frames: (B, 512) float32 in [-1, 1], 16 kHz.
        Returns: (B,) float32 in [0, 1].
        Raises ValueError for a wrong shape or a row that occurs twice.
        """
        if frames.shape != (len(rows), FRAME_SAMPLES) or len(set(rows.tolist())) != len(rows):
            raise ValueError("step needs one frame of 512 samples for each of distinct rows")
        if len(rows) == 0:
            return np.zeros(0, np.float32)
        inputs = {
            "input": np.concatenate([self._context[rows], frames], axis=1),
            "h": self._hidden[:, rows],
            "c": self._cell[:, rows],
        }
        probabilities, self._hidden[:, rows], self._cell[:, rows] = self._session.run(None, inputs)
        self._context[rows] = frames[:, -CONTEXT_SAMPLES:]
        return np.asarray(probabilities, np.float32)

    def row_state(self, row: int) -> bytes:
        """A row's state (h, c, context), for a checkpoint."""
        parts = (self._hidden[0, row], self._cell[0, row], self._context[row])
        return b"".join(part.tobytes() for part in parts)

    def restore_row(self, row: int, state: bytes) -> None:
        """Put a row where `row_state` found one. Raises ValueError for a wrong size."""
        values = np.frombuffer(state, np.float32)
        if len(values) != 2 * STATE_SIZE + CONTEXT_SAMPLES:
            raise ValueError(f"VAD state of {len(state)} bytes")
        self._hidden[0, row] = values[:STATE_SIZE]
        self._cell[0, row] = values[STATE_SIZE : 2 * STATE_SIZE]
        self._context[row] = values[2 * STATE_SIZE :]

    def reset(self, row: int) -> None:
        """Forget the row's stream."""
        self._hidden[:, row] = 0.0
        self._cell[:, row] = 0.0
        self._context[row] = 0.0
