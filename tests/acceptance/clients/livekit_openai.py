"""LiveKit's openai plugin on the realtime API: it never commits.

usage: livekit_openai.py HOST:PORT
"""

import sys

from _livekit import run
from livekit.plugins import openai

run(lambda: openai.STT(api_key="test-key", base_url=f"http://{sys.argv[1]}/v1", use_realtime=True))
