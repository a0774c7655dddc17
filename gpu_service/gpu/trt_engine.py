"""From an engine folder to a TensorRtEncoder: whether the plan is the one, and for what.

A plan is machine code: it is hashed before TensorRT may read it. A plan of another GPU or another
TensorRT does not load; that is an error which says to build again. The service calls it where the
manifest names tensorrt as the encoder.
"""

from __future__ import annotations

from pathlib import Path

from ..builder.manifest import PLAN, REBUILD, Manifest, check_files
from ..errors import ModelFileError
from .device import Device, DeviceError
from .encoder_subsampling import MelStore
from .trt import TensorRtEncoder
from .trt_compat import load_tensorrt


def open_tensorrt(
    folder: Path, manifest: Manifest, device: Device, store: MelStore
) -> TensorRtEncoder:
    """The encoder of an engine folder; nothing has run yet. Raises ModelError, DeviceError."""
    trt = load_tensorrt()
    check_files(folder, manifest, [PLAN])
    try:
        return TensorRtEncoder(
            trt,
            device,
            (folder / PLAN).read_bytes(),
            manifest.plan_buckets,
            store,
            max_frames=manifest.max_frames,
            output_width=manifest.config.decoder_width,
        )
    except DeviceError as error:
        if error.is_sticky:
            raise
        raise ModelFileError(f"{folder}: {error}", REBUILD) from error
