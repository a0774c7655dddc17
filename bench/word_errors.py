"""Word error rate, with Whisper's English normaliser where jiwer and whisper-normalizer are
installed (the `dev` extra), and without a number where they are not: a home-made normaliser would
give rates that compare with nobody's."""

from __future__ import annotations

import importlib


def word_error_rate(reference: str, hypothesis: str) -> float | None:
    """Errors per reference word; None when the packages are missing or there is no reference."""
    try:
        jiwer = importlib.import_module("jiwer")
        english = importlib.import_module("whisper_normalizer.english")
    except ImportError:
        return None
    normalize = english.EnglishTextNormalizer()
    wanted, got = normalize(reference), normalize(hypothesis)
    if not wanted.split():
        return None
    return round(float(jiwer.wer(wanted, got)), 4)
