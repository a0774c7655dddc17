"""`python -m gpu_service`: how it ends when it can not begin, and when its device is lost."""

from __future__ import annotations

import socket
import subprocess
import sys

import msgspec
import pytest

from gateway.children import EXIT_DEVICE_LOST, EXIT_HOPELESS
from gpu_service import __main__ as main
from protocol.shm import receive_message
from protocol.supervisor_messages import Log, SupervisorMessage

FAILING = """
import sys
from gpu_service import __main__ as main
from gpu_service.errors import ModelError
from gpu_service.gpu.device import DeviceError

def load_recognizer(config):
    raise {error}

main.load_recognizer = load_recognizer
sys.exit(main.main())
"""


def run(error: str) -> tuple[int, SupervisorMessage | None, str]:
    """Exit status, what the parent hears and what the terminal shows, when loading fails so."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        config = msgspec.json.encode({"index": 0, "control_fd": theirs.fileno()}).decode()
        done = subprocess.run(
            [sys.executable, "-c", FAILING.format(error=error), "--config", config],
            pass_fds=[theirs.fileno()], capture_output=True, text=True,
        )  # fmt: skip
        theirs.close()
        received = receive_message(ours)
        return done.returncode, received and received[0], done.stderr


def test_both_ends_mean_the_same_by_an_exit_status() -> None:
    assert main.EXIT_HOPELESS == EXIT_HOPELESS
    assert main.EXIT_DEVICE_LOST == EXIT_DEVICE_LOST


def test_a_model_that_can_not_be_used_is_said_to_the_parent() -> None:
    status, message, _ = run("ModelError('there is none', 'fetch one')")
    assert (status, message) == (EXIT_HOPELESS, Log("error", "there is none (fetch one)"))


def test_a_lost_device_ends_the_process_with_a_status_of_its_own() -> None:
    status, message, shown = run("DeviceError('CUDA: illegal address', is_sticky=True)")
    assert status == EXIT_DEVICE_LOST
    assert message == Log("error", "the GPU failed: CUDA: illegal address")
    assert "lost to this process" in shown


@pytest.mark.parametrize("error", ["DeviceError('CUDA: not supported')", "ValueError('a bug')"])
def test_everything_else_is_a_crash_like_any_other(error: str) -> None:
    status, message, shown = run(error)
    assert (status, message) == (1, None)
    assert "Traceback" in shown
