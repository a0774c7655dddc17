"""openai (PyPI) HTTP transcriptions + models. usage: openai_http.py HOST:PORT"""

import sys

from _audio import wav
from openai import OpenAI

c = OpenAI(api_key="test-key", base_url=f"http://{sys.argv[1]}/v1")
f = ("a.wav", wav(), "audio/wav")
m = c.models.list().data[0].id
print("models", m)
tr = c.audio.transcriptions.create
print("json   ", repr(tr(file=f, model=m, language="en").text))
for rf in ("text", "srt", "vtt"):
    r = tr(file=f, model=m, response_format=rf)
    assert isinstance(r, str), type(r)
    print(rf, repr(r))
v = tr(file=f, model=m, response_format="verbose_json", timestamp_granularities=["word", "segment"])
print("verbose", v.language, v.duration, v.words, len(v.segments))
d = [e for e in tr(file=f, model=m, stream=True)]
print(
    "stream ",
    [e.type for e in d],
    repr("".join(e.delta for e in d if e.type == "transcript.text.delta")),
    repr(d[-1].text),
)
assert d[-1].type == "transcript.text.done"
