"""`python -m gpu_service --config JSON`: load the models, warm up, serve one parent.

The only file of the package that reads argv. The parent starts it with an open control socket;
nobody needs to start it by hand.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import logging
import os
import signal
import socket
import sys

from protocol.shm import send_message
from protocol.supervisor_messages import Log

from .config import ServiceConfig, decode_config
from .engine import Engine
from .errors import ModelError
from .recognizers import load_recognizer
from .service import Service
from .vad import Vad

PR_SET_PDEATHSIG = 1


def main() -> int:
    """Exit status: 0 told to stop, 3 the model cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m gpu_service", description=__doc__)
    parser.add_argument("--config", required=True, help="settings as JSON, from the parent")
    config = decode_config(parser.parse_args().config)
    logging.basicConfig(
        level=config.log_level.upper(), format="%(levelname).1s service %(message)s"
    )
    _die_with_parent()
    control = socket.socket(fileno=config.control_fd)
    try:
        engine = _load(config)
    except ModelError as error:
        send_message(control, Log("error", str(error)))  # the parent says it last, and ends
        return 3
    if config.gc_freeze:
        gc.collect()
        gc.freeze()
    Service(config, engine, control).run()
    return 0


def _load(config: ServiceConfig) -> Engine:
    recognizer = load_recognizer(config)
    recognizer.warm_up()
    return Engine(recognizer, Vad(config.max_streams), config.max_streams)


def _die_with_parent() -> None:
    """Ctrl-C is the parent's to handle; its death, however sudden, is ours too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == 1:
        sys.exit(0)


if __name__ == "__main__":
    sys.exit(main())
