"""Pipecat's TogetherSTTService; the client's turns are commits.

usage: pipecat_together.py HOST:PORT
"""

import sys

from _pipecat import run
from pipecat.services.together.stt import TogetherSTTService

run(lambda: TogetherSTTService(api_key="test-key", base_url=f"ws://{sys.argv[1]}/v1"))
