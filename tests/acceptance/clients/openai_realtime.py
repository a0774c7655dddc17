"""openai (PyPI) AsyncOpenAI().realtime in transcription mode.

usage: openai_realtime.py HOST:PORT [server_vad|none]
"""

import asyncio
import base64
import sys

from _audio import chunks, pcm
from openai import AsyncOpenAI


async def main(host, td="server_vad"):
    # or websocket_base_url="ws://.../v1"
    client = AsyncOpenAI(api_key="test-key", base_url=f"http://{host}/v1")
    async with client.realtime.connect(extra_query={"intent": "transcription"}) as c:
        await c.session.update(
            session={
                "type": "transcription",
                "audio": {
                    "input": {
                        "format": {"type": "audio/pcm", "rate": 24000},
                        "transcription": {"model": "gpt-4o-mini-transcribe", "language": "en"},
                        "turn_detection": None
                        if td == "none"
                        else {
                            "type": "server_vad",
                            "threshold": 0.5,
                            "prefix_padding_ms": 300,
                            "silence_duration_ms": 500,
                        },
                    }
                },
            }
        )

        async def feed():
            for x in chunks(pcm(24000), 24000):
                await c.input_audio_buffer.append(audio=base64.b64encode(x).decode())
                await asyncio.sleep(0.02)
            await c.input_audio_buffer.commit()

        t = asyncio.create_task(feed())
        text = ""
        async for ev in c:
            print(
                type(ev).__name__,
                ev.type,
                getattr(ev, "delta", None) or getattr(ev, "transcript", "") or "",
            )
            if ev.type == "error":
                raise SystemExit(ev.error.message)
            if ev.type.endswith("transcription.delta"):
                text += ev.delta  # OpenAI deltas are INCREMENTAL
            if ev.type.endswith("transcription.completed"):
                assert text == ev.transcript, (text, ev.transcript)
                text = ""
            if ev.type.endswith("transcription.completed") and t.done():
                break


asyncio.run(asyncio.wait_for(main(*sys.argv[1:]), 60))
