"""Pipecat's OpenAIRealtimeSTTService.

usage: pipecat_openai.py HOST:PORT [commit|server_vad]
commit: the client's turns are commits; server_vad: the server says when somebody speaks.
"""

import sys

from _pipecat import run
from pipecat.services.openai.stt import OpenAIRealtimeSTTService


def main(host, mode="commit"):
    is_committed = mode == "commit"

    def service():
        return OpenAIRealtimeSTTService(
            api_key="test-key",
            base_url=f"ws://{host}/v1/realtime",
            turn_detection=False if is_committed else {"type": "server_vad"},
            settings=OpenAIRealtimeSTTService.Settings(model="gpt-transcribe"),
        )

    run(service, is_committed=is_committed, has_turns=not is_committed)


main(*sys.argv[1:])
