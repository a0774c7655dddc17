"""vLLM's flavour of /v1/realtime: the same session in fewer words.

Pure. vLLM's clients name a model at the top level of session.update, send 16 kHz PCM, commit once
to begin and once with `final` to end, and read one growing text. openai_realtime.py puts this
wording in the place of OpenAI's when it recognises such a client.
"""

from __future__ import annotations

from typing import Any

import msgspec

from protocol.client_messages import Error, VadOptions

from .openai_events import Wording, error_fields

SAMPLE_RATE_HZ = 16_000
VAD = VadOptions()  # the server's: turns are not shown, but pauses are good places for finals
AUDIO_TOKEN_SAMPLES = 1_280  # 80 ms, what one audio token of vLLM's streaming models covers


class Delta(msgspec.Struct, tag_field="type", tag="transcription.delta"):
    """Text to append."""

    delta: str


class Usage(msgspec.Struct, kw_only=True):
    """In the nearest to tokens that there is: 80 ms of audio, and words."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Done(msgspec.Struct, tag_field="type", tag="transcription.done", kw_only=True):
    """The sum of all deltas since the last one."""

    text: str
    usage: Usage


class ErrorMessage(msgspec.Struct, tag_field="type", tag="error"):
    """Here `error` is a text."""

    error: str
    code: str


class VllmWording(Wording):
    """What happened, as vLLM's events; most of it has no word here."""

    def updated(self, session: dict[str, Any]) -> list[msgspec.Struct]:
        """Not said."""
        return []

    def cleared(self) -> list[msgspec.Struct]:
        """Not said."""
        return []

    def committed(self, item_id: str, previous: str | None) -> list[msgspec.Struct]:
        """Not said."""
        return []

    def delta(self, item_id: str, text: str) -> list[msgspec.Struct]:
        """The text grows."""
        return [Delta(text)]

    def completed(self, item_id: str, text: str, num_samples: int) -> list[msgspec.Struct]:
        """The text is complete."""
        heard = -(-num_samples // AUDIO_TOKEN_SAMPLES)
        said = len(text.split())
        usage = Usage(prompt_tokens=heard, completion_tokens=said, total_tokens=heard + said)
        return [Done(text=text, usage=usage)]

    def failed(self, item_id: str, error: Error) -> list[msgspec.Struct]:
        """Not said: `ended` follows."""
        return []

    def ended(self, error: Error) -> list[msgspec.Struct]:
        """The session ends. Nobody here takes an error for more than it is: it is always said."""
        return [ErrorMessage(error.message, error_fields(error)[0])]

    def refused(self, code: str, message: str, event_id: str | None) -> list[msgspec.Struct]:
        """One message of the client was not taken."""
        return [ErrorMessage(message, code)]
