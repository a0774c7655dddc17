"""Shared by the scripts: 16-bit mono PCM at the wanted rate, from $WAV (any rate, 16-bit mono) or a
2.5 s tone burst.
"""

import io
import os
import wave

import numpy as np


def pcm(rate, seconds=2.5):
    if os.environ.get("WAV"):
        with wave.open(os.environ["WAV"]) as w:
            sr = w.getframerate()
            x = np.frombuffer(w.readframes(w.getnframes()), "<i2").astype(float)
        x = np.interp(np.arange(0, len(x), sr / rate), np.arange(len(x)), x)
    else:
        t = np.arange(int(rate * seconds)) / rate
        x = 8000 * np.sin(2 * np.pi * 220 * t) * (1 + np.sin(2 * np.pi * 4 * t)) / 2
    return x.astype("<i2").tobytes()


def chunks(b, rate, ms=20):
    n = rate * 2 * ms // 1000
    return [b[i : i + n] for i in range(0, len(b), n)]


def wav(rate=16000):
    f = io.BytesIO()
    with wave.open(f, "wb") as w:
        w.setnchannels(1)
        w.setsampwidth(2)
        w.setframerate(rate)
        w.writeframes(pcm(rate))
    return f.getvalue()
