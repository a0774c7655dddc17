"""Signals arrive as bytes, and all is as it was afterwards."""

from __future__ import annotations

import signal

from gateway.signal_wake import SignalWake


def test_signals_are_read_and_then_handled_as_before() -> None:
    before = signal.getsignal(signal.SIGUSR1)
    with SignalWake([signal.SIGUSR1, signal.SIGUSR2]) as wake:
        signal.raise_signal(signal.SIGUSR2)
        signal.raise_signal(signal.SIGUSR1)
        assert set(wake.read()) == {signal.SIGUSR1, signal.SIGUSR2}
        assert wake.fileno() >= 0
    assert signal.getsignal(signal.SIGUSR1) == before
    assert wake.fileno() == -1
