"""TensorRtEncoder: whole utterances through a TensorRT plan, as encoder.py does it by our kernels.

A plan serves several buckets, each by an optimisation profile of its own, over one copy of the
weights. Every bucket has its own execution context, and one CUDA graph: the gathering of features,
then TensorRT. Where an engine can not be captured, the same two are enqueued one after the other
instead; `is_captured` says which it is. All contexts share one block of scratch memory and one set
of buffers, for there is one stream.

Knows a plan and device memory, no file and no model: builder/manifest.py says where it lies and
whether it may be run. Shapes: B utterances, N frames, S slots, R mel rows, F bands, J output.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .descriptors import DescriptorRing
from .device import Device, DeviceArray, Graph
from .encoder import Utterance, descriptor_rows
from .encoder_layers import Bucket
from .encoder_subsampling import MelStore
from .trt_inputs import (
    FEATURES,
    FLOAT_INPUTS,
    FRAME_MASK,
    HALF_MASK,
    KEY_MASK,
    PROJECTED,
    QUARTER_MASK,
    shapes,
    tables,
)
from .trt_plan import TensorRtPlan, captured_run

SOURCE, KERNEL = "trt_input.cu", "gather_features"
BANDS = 128  # threads of a block, as in the source
FLOAT_ORDER = (FEATURES, HALF_MASK, QUARTER_MASK, FRAME_MASK, KEY_MASK)  # of the kernel's arguments


@dataclass(slots=True)
class _Prepared:
    """A bucket that can run."""

    context: Any  # trt.IExecutionContext; the graph needs it alive
    projected: DeviceArray  # (B, N, J) float32
    run: Callable[[], None]  # enqueue it without a graph
    graph: Graph | None


class TensorRtEncoder:
    """See GpuEncoder. One owner thread; the buckets are those of its plan."""

    def __init__(
        self,
        trt: Any,
        device: Device,
        plan: bytes,
        buckets: Sequence[Bucket],
        store: MelStore,
        *,
        max_frames: int,
        output_width: int,
    ) -> None:
        """Deserialize the plan. Nothing runs yet.

        Args:
            trt: the tensorrt module.
            buckets: bucket i runs on the plan's profile i.
            max_frames: of the table of positions that the plan was built with.
            output_width: J.

        Raises DeviceError for a plan that this TensorRT does not take, TensorRtMissingError.
        """
        self._device = device
        self._store = store
        self._max_frames = max_frames
        self._plan = TensorRtPlan(trt, device, plan, len(buckets))
        self._profiles = {bucket: profile for profile, bucket in enumerate(buckets)}
        self.buckets = tuple(sorted(buckets, key=lambda b: (b.batch, b.frames)))
        self._ring = DescriptorRing(device, max(b.batch for b in self.buckets))
        self._buffers = self._make_buffers(output_width)
        self._tables: dict[int, dict[str, DeviceArray]] = {}
        self._prepared: dict[Bucket, _Prepared] = {}
        self._kernel = device.kernel(SOURCE, KERNEL)

    def is_captured(self, bucket: Bucket) -> bool:
        """Whether a prepared bucket is one graph launch."""
        return self._prepared[bucket].graph is not None

    def prepare(self, bucket: Bucket) -> None:
        """Make a bucket ready. Raises DeviceError, ValueError for one that the plan has not."""
        if bucket in self._prepared:
            return
        if bucket not in self._profiles:
            raise ValueError(f"{bucket}: the plan has it not")
        context = self._plan.context(self._profiles[bucket])
        inputs, projected = self._bind(context, bucket)
        self._ring.write((), bucket.batch)
        run = self._runner(context, bucket, inputs)
        graph = captured_run(self._device, run, _words(bucket))
        self._prepared[bucket] = _Prepared(context, projected, run, graph)

    def encode(self, bucket: Bucket, utterances: Sequence[Utterance]) -> DeviceArray:
        """See GpuEncoder.encode. Raises DeviceError, ValueError for what does not fit."""
        rows = descriptor_rows(bucket, utterances)
        self.prepare(bucket)
        self._ring.write(rows, bucket.batch)
        prepared = self._prepared[bucket]
        if prepared.graph is None:
            prepared.run()
        else:
            prepared.graph.launch()
        return prepared.projected

    # -- set-up ----------------------------------------------------------------------------

    def _make_buffers(self, output_width: int) -> dict[str, DeviceArray]:
        """Memory of each float input and of the output, for the largest bucket of each."""
        sizes = dict.fromkeys(FLOAT_INPUTS, 0)
        for bucket in self.buckets:
            for name, shape in shapes(bucket, BANDS).items():
                if name in sizes:
                    sizes[name] = max(sizes[name], int(np.prod(shape)))
        most_frames = max(bucket.batch * bucket.frames for bucket in self.buckets)
        buffers = {name: self._device.empty(size, np.float32) for name, size in sizes.items()}
        buffers[PROJECTED] = self._device.empty((most_frames, output_width), np.float32)
        return buffers

    def _bind(self, context: Any, bucket: Bucket) -> tuple[dict[str, DeviceArray], DeviceArray]:
        """Tell a context its shapes and addresses; returns our inputs and the output."""
        frames = bucket.frames
        if frames not in self._tables:
            made = tables(frames, self._max_frames)
            self._tables[frames] = {name: self._device.upload(t) for name, t in made.items()}
        inputs = {
            name: self._buffers[name].first(*shape) if name in FLOAT_INPUTS
            else self._tables[frames][name]
            for name, shape in shapes(bucket, BANDS).items()
        }  # fmt: skip
        width = self._buffers[PROJECTED].shape[1]
        projected = self._buffers[PROJECTED].first(bucket.batch, frames, width)
        self._plan.bind(context, inputs, {PROJECTED: projected})
        return inputs, projected

    def _runner(
        self, context: Any, bucket: Bucket, inputs: Mapping[str, DeviceArray]
    ) -> Callable[[], None]:
        arrays = [inputs[name] for name in FLOAT_ORDER]
        max_rows = np.int32(self._store.mel.shape[1])

        def run() -> None:
            self._device.launch(
                self._kernel, (bucket.frames, bucket.batch, 1), BANDS,
                self._store.mel, self._store.mean, self._store.scale, self._ring.descriptors,
                *arrays, max_rows,
            )  # fmt: skip
            self._plan.run(context, _words(bucket))

        return run


def _words(bucket: Bucket) -> str:
    return f"{bucket.batch} x {bucket.frames} frames"
