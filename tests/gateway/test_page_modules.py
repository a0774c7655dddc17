"""The page's modules: their own tests under node, and what Python can say about them.

JavaScript is tested by node's own runner (web/*.test.mjs), which needs no package; without a node
of version 20 or newer these tests are skipped.
"""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from protocol.subtitles import TimedWord, cues_of, render_srt, render_vtt, spread_words

HERE = Path(__file__).parent / "web"
MODULES = Path(__file__).parents[2] / "gateway" / "web"
MAX_MODULE_LINES = 400
NODE_MIN_MAJOR = 20
# How a server's text could become markup or code.
MARKUP = re.compile(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|Function\(")
_WORDS = ["a", "I", "yes,", "well.", "the", "naïve", "speaking", "“quoted.”)", "𝄞", "x" * 50, "no;"]
_WORDS.append("今天天气很好我们一起去公园散步吧" * 12)


def run_node(*arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    """node with these arguments; skips the test where there is none."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node on this machine")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout
    if int(version.lstrip("v").partition(".")[0]) < NODE_MIN_MAJOR:
        pytest.skip(f"node {version.strip()} is too old")
    return subprocess.run([node, *arguments], input=text, capture_output=True, text=True)


def test_the_modules_pass_their_own_tests() -> None:
    done = run_node("--test", *(str(path) for path in sorted(HERE.glob("*.test.mjs"))))
    assert done.returncode == 0, done.stdout + done.stderr


def random_segments(rng: random.Random) -> list[list[TimedWord]]:
    """Segments of words with pauses between some of them."""
    segments, now_s = [], rng.random()
    for _ in range(rng.randint(0, 4)):
        words = []
        for _ in range(rng.randint(0, 40)):
            start_s = now_s + (rng.random() * 3 if rng.random() < 0.05 else rng.random() / 9)
            now_s = start_s + rng.random()
            words.append(TimedWord(rng.choice(_WORDS), start_s, now_s))
        segments.append(words)
    return segments


def test_a_page_saves_the_subtitles_that_the_command_line_writes() -> None:
    rng = random.Random(5)
    transcripts = [random_segments(rng) for _ in range(200)]
    given = [
        [
            {"words": [{"text": w.text, "start_s": w.start_s, "end_s": w.end_s} for w in s]}
            for s in t
        ]
        for t in transcripts
    ]
    spread = ("Words without times, spread over it all.", 1.25, 9.5)
    given.append([dict(zip(("text", "start_s", "end_s"), spread, strict=True))])
    transcripts.append([spread_words(*spread)])
    done = run_node(str(HERE / "render_subtitles.mjs"), text=json.dumps(given))
    assert done.returncode == 0, done.stderr
    for segments, rendered in zip(transcripts, json.loads(done.stdout), strict=True):
        cues = cues_of(segments)
        assert rendered == [render_srt(cues), render_vtt(cues)]


def test_no_module_makes_markup_or_code_of_text() -> None:
    hits = {path.name: MARKUP.findall(path.read_text()) for path in MODULES.glob("*.js")}
    assert {name: found for name, found in hits.items() if found} == {}


def test_no_module_is_too_long_to_read() -> None:
    sizes = {path.name: len(path.read_text().splitlines()) for path in MODULES.glob("*.js")}
    assert len(sizes) > 15
    assert {name: size for name, size in sizes.items() if size > MAX_MODULE_LINES} == {}


def test_every_module_says_what_it_is_for_and_is_type_checked_by_editors() -> None:
    heads = {path.name: path.read_text()[:20] for path in MODULES.glob("*.js")}
    wrong = [name for name, head in heads.items() if not head.startswith("// @ts-check\n/**")]
    assert wrong == []
