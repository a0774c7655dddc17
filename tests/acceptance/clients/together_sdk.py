"""together (PyPI) AsyncTogether().beta.realtime.transcription against a custom base URL.

usage: together_sdk.py HOST:PORT [server_vad|none]
"""

import asyncio
import sys

from _audio import chunks, pcm
from together import AsyncTogether
from together.realtime import TranscriptCompleted, TranscriptDelta


async def main(host, td="server_vad"):
    # API ROOT, /v1/realtime is appended
    client = AsyncTogether(api_key="test-key", base_url=f"http://{host}")
    async with client.beta.realtime.transcription(
        model="openai/whisper-large-v3",
        sample_rate=16000,
        language="en",
        turn_detection={
            "type": td,
            **({"min_silence_duration_ms": 500, "threshold": 0.3} if td != "none" else {}),
        },
    ) as s:

        async def show():
            async for ev in s:
                if isinstance(ev, TranscriptDelta):
                    print("delta    ", ev.text, ev.raw.start, ev.raw.duration)
                elif isinstance(ev, TranscriptCompleted):
                    print("completed", ev.text, ev.segment_id, ev.replayed)
                else:
                    print(ev.type, getattr(ev, "reason", ""))

        t = asyncio.create_task(show())
        for c in chunks(pcm(16000), 16000):
            await s.append(c)
            await asyncio.sleep(0.02)
        await asyncio.sleep(6)  # long enough for one echo probe (~5 s, 2 s answer limit)
        text = await s.flush()
        print("FLUSH", repr(text))
        assert text.strip(), "no transcript"
        t.cancel()


asyncio.run(main(*sys.argv[1:]))
