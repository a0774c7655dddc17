"""Exceptions of gpu_service.

    ServiceError
    +-- ModelError                a model can not be used; the text says what to do about it
    |   +-- ModelNotFoundError    files are missing
    |   +-- ModelFileError        files are there and damaged, oversized or of another kind
    +-- RecognizerError           the caller broke the Recognizer contract (our mistake)

Callers turn ModelError into one line on the terminal and RecognizerError into a crash.
"""

from __future__ import annotations


class ServiceError(Exception):
    """Root of everything that gpu_service raises on purpose."""


class ModelError(ServiceError):
    """A model can not be used: `problem` says why, `remedy` what the user can do."""

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(problem, remedy)
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.problem} ({self.remedy})" if self.remedy else self.problem


class ModelNotFoundError(ModelError):
    """Files of a model are not on this machine."""


class ModelFileError(ModelError):
    """A model file is damaged, beyond our limits, or of a kind that we do not know."""


class RecognizerError(ServiceError):
    """A Recognizer was called against its contract (unknown handle, utterance too long)."""
