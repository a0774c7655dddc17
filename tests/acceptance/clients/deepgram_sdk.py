"""deepgram-sdk (PyPI) live websocket against a custom base URL. usage: deepgram_sdk.py HOST:PORT"""

import asyncio
import sys

from _audio import chunks, pcm
from deepgram import AsyncDeepgramClient, DeepgramClientEnvironment
from deepgram.core.events import EventType


async def main(host):
    env = DeepgramClientEnvironment(
        base=f"http://{host}",
        production=f"ws://{host}",
        agent=f"ws://{host}",
        agent_rest=f"http://{host}",
    )
    client = AsyncDeepgramClient(api_key="test-key", environment=env)
    got = []
    async with client.listen.v1.connect(
        model="nova-3",
        encoding="linear16",
        sample_rate=16000,
        channels=1,
        interim_results="true",
        punctuate="true",
        smart_format="true",
        vad_events="true",
        utterance_end_ms=1000,
        endpointing=300,
    ) as c:

        def on(m):
            got.append(m)
            print(
                type(m).__name__,
                getattr(m, "is_final", ""),
                getattr(m, "from_finalize", ""),
                m.channel.alternatives[0].transcript if m.type == "Results" else "",
            )

        c.on(EventType.MESSAGE, on)
        c.on(EventType.ERROR, lambda e: print("ERROR", repr(e)))
        c.on(EventType.CLOSE, lambda _: print("CLOSE"))
        t = asyncio.create_task(c.start_listening())
        for x in chunks(pcm(16000), 16000, 50):
            await c.send_media(x)
            await asyncio.sleep(0.03)
        await c.send_keep_alive()
        await c.send_finalize()
        await asyncio.sleep(1)
        await c.send_media(pcm(16000, 0.5))
        await c.send_close_stream()
        await asyncio.wait_for(t, 20)
    assert any(
        m.type == "Results" and m.is_final and m.channel.alternatives[0].transcript for m in got
    ), "no final"
    assert got[-1].type == "Metadata", got[-1]


asyncio.run(main(sys.argv[1]))
