"""Vad: Silero's voice activity model over many streams at once.

The file (silero_vad_v6.onnx, MIT) travels in the faster-whisper wheel. vad_graph.py makes a graph
of it that takes one frame of each of B streams. Large batches are split over a few threads, which
ONNX Runtime runs side by side: 1,000 streams are 31,250 frames a second, half a core. A row's
probability is the same bit for bit in every batch and split (tests/gpu_service/test_vad.py holds
that: the determinism contract needs it).

It knows frames and rows, no stream positions and no thresholds (endpointer.py). The service calls.

Shapes: B rows of this step, R rows in all.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .endpointer import FRAME_SAMPLES
from .errors import ModelFileError, ModelNotFoundError

CONTEXT_SAMPLES = 64  # of the frame before, in front of each frame: 4 ms
STATE_SIZE = 128
ROWS_A_THREAD = 192  # 31.25 frames a second at 17 us: a tenth of a core
MIN_ROWS_OF_A_PART = 32  # below, a thread costs more than it saves
MODEL_FILE_NAME = "silero_vad_v6.onnx"
MODEL_SHA256 = "4cbf549b8326f60f80f2536d9eefeb450a9abe83365a098031c89719f1be17d2"
MAX_MODEL_BYTES = 16 << 20
REMEDY = "pip install 'earwire[tiny]', or serve with --vad off"

Array = NDArray[np.float32]


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


def default_threads(num_rows: int, num_cores: int) -> int:
    """How many threads keep the time for `num_rows` streams under about a tenth of the clock, on
    at most half of the cores.
    """
    return max(1, min(num_cores // 2, -(-num_rows // ROWS_A_THREAD)))


class Vad:
    """Speech probabilities of up to `num_rows` streams, a state row each (1.3 KB).

    A row starts in the state of a new stream; reset() puts it back there.
    """

    def __init__(self, num_rows: int, path: Path | None = None, num_threads: int = 1) -> None:
        """Load the model. Raises ModelNotFoundError, ModelFileError."""
        import onnxruntime

        from .vad_graph import batched_graph

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # a product of this size is too small to share
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors only
        self._session: Any = onnxruntime.InferenceSession(
            batched_graph(read_model_file(path)), options, providers=["CPUExecutionProvider"]
        )
        self.num_rows = num_rows
        self.num_threads = num_threads
        # The caller is one of the threads. A pool starts its threads when it is first used.
        self._pool = ThreadPoolExecutor(max(1, num_threads - 1), thread_name_prefix="vad")
        self._hidden: Array = np.zeros((1, num_rows, STATE_SIZE), np.float32)
        self._cell: Array = np.zeros((1, num_rows, STATE_SIZE), np.float32)
        self._context: Array = np.zeros((num_rows, CONTEXT_SAMPLES), np.float32)

    def step(self, rows: NDArray[np.intp], frames: Array) -> Array:
        """The speech probability of the next frame of each row.

        Args:
            rows: (B,), each at most once.
            frames: (B, 512) float32 in [-1, 1], 16 kHz.
        Returns: (B,) float32 in [0, 1].
        Raises ValueError for a wrong shape or a row that occurs twice.
        """
        if frames.shape != (len(rows), FRAME_SAMPLES) or len(set(rows.tolist())) != len(rows):
            raise ValueError("step needs one frame of 512 samples for each of distinct rows")
        num_parts = min(self.num_threads, -(-len(rows) // MIN_ROWS_OF_A_PART))
        if num_parts <= 1:
            return self._run(rows, frames) if len(rows) else np.zeros(0, np.float32)
        parts = list(
            zip(np.array_split(rows, num_parts), np.array_split(frames, num_parts), strict=True)
        )
        others = [self._pool.submit(self._run, *part) for part in parts[1:]]
        first = self._run(*parts[0])
        return np.concatenate([first, *(other.result() for other in others)])

    def _run(self, rows: NDArray[np.intp], frames: Array) -> Array:
        """One call of the model; threads work on different rows."""
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
