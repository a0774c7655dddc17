"""`python -m gpu_service --config JSON`: load the models, warm up, serve one parent.

The only file of the package that reads argv. The parent starts it with an open control socket;
nobody needs to start it by hand.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import logging
import os
import signal
import socket
import sys
from typing import NoReturn

from protocol.log_lines import configure_logging
from protocol.shm import send_message
from protocol.supervisor_messages import EXIT_DEVICE_LOST as EXIT_DEVICE_LOST
from protocol.supervisor_messages import EXIT_HOPELESS as EXIT_HOPELESS
from protocol.supervisor_messages import Log

from .config import ServiceConfig, decode_config
from .engine import Engine
from .errors import ModelError
from .gpu.device import DeviceError
from .recognizers import load_recognizer
from .service import Service
from .vad import Vad, default_threads

PR_SET_PDEATHSIG = 1

log = logging.getLogger("earwire.service")


def main() -> int:
    """Exit status: 0 told to stop, else what protocol/supervisor_messages.py names."""
    parser = argparse.ArgumentParser(prog="python -m gpu_service", description=__doc__)
    parser.add_argument("--config", required=True, help="settings as JSON, from the parent")
    config = decode_config(parser.parse_args().config)
    source = f"service {config.index}"
    configure_logging(
        config.log_format, config.log_level, source, "%(levelname).1s service %(message)s"
    )
    _die_with_parent()
    control = socket.socket(fileno=config.control_fd)
    try:
        return _serve(config, control)
    except ModelError as error:
        send_message(control, Log("error", str(error)))  # the parent says it last, and ends
        return EXIT_HOPELESS
    except DeviceError as error:
        if not error.is_sticky:
            raise
        _give_up_device(control, error)


def _serve(config: ServiceConfig, control: socket.socket) -> int:
    """Load, warm up, serve until told to stop."""
    recognizer = load_recognizer(config)
    recognizer.warm_up()
    num_vad_threads = config.vad_threads or default_threads(config.max_streams, os.cpu_count() or 1)
    vad = Vad(config.max_streams, num_threads=num_vad_threads)
    engine = Engine(recognizer, vad, config.max_streams)
    if config.gc_freeze:
        gc.collect()
        gc.freeze()
    Service(config, engine, control).run()
    return 0


def _give_up_device(control: socket.socket, error: DeviceError) -> NoReturn:
    """End at once: what frees memory on the device at exit would fail as well, or hang. The
    gateway has the streams' checkpoints and goes on with the next process.
    """
    log.error("the GPU is lost to this process: %s", error)
    with contextlib.suppress(OSError):
        send_message(control, Log("error", f"the GPU failed: {error}"))
    logging.shutdown()
    os._exit(EXIT_DEVICE_LOST)


def _die_with_parent() -> None:
    """Ctrl-C is the parent's to handle; its death, however sudden, is ours too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == 1:
        sys.exit(0)


if __name__ == "__main__":
    sys.exit(main())
