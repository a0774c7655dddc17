"""wyoming (PyPI) ASR client, the Home Assistant sequence. usage: wyoming_client.py HOST:PORT"""

import asyncio
import sys

from _audio import chunks, pcm
from wyoming.asr import Transcribe, Transcript
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncClient
from wyoming.info import Describe, Info


async def main(host):
    async with AsyncClient.from_uri(f"tcp://{host}") as c:
        await c.write_event(Describe().event())
        i = Info.from_event(await c.read_event())
        print(
            "info",
            i.asr[0].name,
            i.asr[0].supports_transcript_streaming,
            i.asr[0].models[0].languages,
        )
    # HA opens a NEW connection for each utterance
    async with AsyncClient.from_uri(f"tcp://{host}") as c:
        await c.write_event(Transcribe(language="en").event())
        f = dict(rate=16000, width=2, channels=1)
        await c.write_event(AudioStart(**f).event())
        for x in chunks(pcm(16000), 16000, 64):
            await c.write_event(AudioChunk(audio=x, **f).event())
        await c.write_event(AudioStop().event())
        while (e := await asyncio.wait_for(c.read_event(), 30)) is not None:
            print(e.type, e.data)
            if Transcript.is_type(e.type):
                assert Transcript.from_event(e).text
                return
    sys.exit("connection closed before transcript")


asyncio.run(main(sys.argv[1]))
