"""LiveKit's deepgram plugin.

usage: livekit_deepgram.py HOST:PORT
"""

import sys

from _livekit import run
from livekit.plugins import deepgram

run(lambda: deepgram.STT(api_key="test-key", base_url=f"http://{sys.argv[1]}/v1/listen"))
