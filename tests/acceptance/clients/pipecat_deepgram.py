"""Pipecat's DeepgramSTTService; the client's turns are Finalize.

usage: pipecat_deepgram.py HOST:PORT
"""

import sys

from _pipecat import run
from pipecat.services.deepgram.stt import DeepgramSTTService

run(lambda: DeepgramSTTService(api_key="test-key", base_url=f"ws://{sys.argv[1]}"))
