"""The caption page and the overlay in headless Chromium, whose microphone plays the demo's clip.

Real server, real recognition. Words are read off the page as a person would.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from clients.blocking import Client
from protocol.client_messages import Hello, Started

from .audio import DEMO_CLIP, DEMO_TEXT, RATE_HZ, demo_clip, word_error_rate, words_of
from .browser import PHONE, Browser, write_wav
from .cutting_proxy import CuttingProxy
from .server import Server
from .test_http import metrics
from .waiting import wait_for

MAX_WORD_ERROR_RATE = 0.15
CLIP_TIMEOUT_S = 90.0
LAST_WORD = "later"
# A browser that does not let a page listen before it was clicked, as some do.
WANTS_A_CLICK = """
  let isClicked = false;
  addEventListener("pointerdown", () => (isClicked = true), true);
  const { resume } = AudioContext.prototype;
  AudioContext.prototype.resume = function () {
    return isClicked ? resume.call(this) : new Promise(() => {});
  };
  Object.defineProperty(AudioContext.prototype, "state", {
    get: () => (isClicked ? "running" : "suspended"),
  });
"""
LINES = "return [...document.querySelectorAll('#log .line p')].map((line) => line.textContent)"


def home(port: int) -> str:
    """The page's address."""
    return f"http://127.0.0.1:{port}/"


def lines(browser: Browser) -> list[str]:
    """The finished lines of the page."""
    return [str(line) for line in browser.run(LINES)]


def wait_last_word(browser: Browser) -> str:
    """All finished lines, once the clip's last word is in them."""

    def finished() -> str | None:
        text = " ".join(lines(browser))
        return text if LAST_WORD in words_of(text) else None

    return wait_for("the clip's last word as final text", finished, CLIP_TIMEOUT_S)


def pause_and_wait(browser: Browser) -> None:
    """The microphone is closed and every text is there."""
    browser.click("main")
    browser.wait_text("status-text", "Paused")


@pytest.fixture
def two_phrases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The clip's first eleven words, and a silence."""
    samples = np.concatenate([demo_clip()[: 6 * RATE_HZ], np.zeros(RATE_HZ, np.int16)])
    return write_wav(tmp_path_factory.mktemp("clip") / "two.wav", samples, RATE_HZ)


def test_the_words_of_the_clip_are_read_off_the_page(server: Server) -> None:
    with Browser(DEMO_CLIP) as browser:
        browser.open(home(server.http_port))
        browser.wait_text("status-text", "Ready")
        browser.click("main")
        browser.wait_text("status-text", "Listening")
        volatile = wait_for("volatile text", lambda: browser.text("volatile"), CLIP_TIMEOUT_S)
        assert volatile
        color = "return getComputedStyle(document.getElementById(arguments[0])).color"
        assert browser.run(color, "volatile") != browser.run(color, "stable")
        text = wait_last_word(browser)
        assert word_error_rate(DEMO_TEXT, text) <= MAX_WORD_ERROR_RATE
        for name in ("text_ms", "final_ms", "wait_ms", "engine_ms", "network_ms"):
            cell = browser.run(f"return document.querySelector('[data-delay={name}]').textContent")
            assert re.fullmatch(r"\d+ ms|\d+\.\d s", cell), (name, cell)
        pause_and_wait(browser)
        assert browser.run("return document.getElementById('open').hidden")
        assert browser.run("return document.getElementById('log').getAttribute('aria-live')") == (
            "polite"
        )
        assert browser.logs() == []
    record = server.wait_close_record("earwire-page/1")
    assert record["socket_samples"] == record["ring_samples"] == record["engine_samples"]


def test_going_on_after_a_pause_keeps_text_and_time(
    server: Server, tmp_path: Path, two_phrases: Path
) -> None:
    with Browser(two_phrases) as browser:
        browser.open(home(server.http_port))
        browser.click("main")
        wait_for("a final line", lambda: lines(browser), CLIP_TIMEOUT_S)
        pause_and_wait(browser)
        before, clock = lines(browser), browser.text("clock")
        browser.click("main")
        wait_for("more lines", lambda: len(lines(browser)) > len(before), CLIP_TIMEOUT_S)
        pause_and_wait(browser)
        assert lines(browser)[: len(before)] == before
        assert browser.text("clock") > clock
        browser.cdp(
            "Browser.setDownloadBehavior",
            {"behavior": "allow", "downloadPath": str(tmp_path)},
        )
        for ending in ("srt", "vtt", "txt"):
            browser.run(f"document.querySelector('[data-download={ending}]').click()")
        saved = wait_for(
            "three files", lambda: f if len(f := list(tmp_path.glob("*.???"))) == 3 else None
        )
        texts = {path.suffix: path.read_text() for path in saved}
        assert texts[".txt"].splitlines() == lines(browser)
        assert texts[".srt"].startswith("1\n00:00:")
        assert texts[".vtt"].startswith("WEBVTT\n\n00:00:")
        starts = re.findall(r"^(\S+) --> ", texts[".srt"], re.MULTILINE)
        assert starts == sorted(starts)


def test_a_lost_connection_costs_time_and_no_words(server: Server) -> None:
    with CuttingProxy(server.http_port) as proxy, Browser(DEMO_CLIP) as browser:
        browser.open(home(proxy.port))
        browser.click("main")
        wait_for("text of the second phrase", lambda: len(lines(browser)) >= 1, CLIP_TIMEOUT_S)
        wait_for("the next phrase", lambda: browser.text("open"), CLIP_TIMEOUT_S)
        before = num_resumed(server)
        proxy.cut()
        browser.wait_text("problem-title", "Connection lost")
        browser.wait_text("status-text", "Waiting")
        browser.wait_text("problem-text", "you said are kept")
        proxy.mend()
        browser.wait_text("status-text", "Listening")
        text = wait_last_word(browser)
        assert word_error_rate(DEMO_TEXT, text) <= MAX_WORD_ERROR_RATE
        assert "lost" not in text
        assert not browser.element("problem").is_displayed()
        assert num_resumed(server) == before + 1


def num_resumed(server: Server) -> float:
    """Sessions that went on over another connection."""
    return metrics(server).get("earwire_resumes_total{outcome=resumed}", 0.0)


def test_a_page_that_is_left_does_not_keep_its_place(server: Server) -> None:
    before = {record["session_id"] for record in server.close_records()}
    with Browser(DEMO_CLIP) as browser:
        browser.open(home(server.http_port))
        browser.click("main")
        wait_for("text", lambda: browser.text("open"), CLIP_TIMEOUT_S)
        browser.driver.get("about:blank")
        wait_for(
            "the close record of a client that said bye",
            lambda: any(
                record["reason"] == "client" and record["session_id"] not in before
                for record in server.close_records()
            ),
            10.0,  # one that vanished would be kept for 30 s
        )


def test_a_server_that_is_gone_or_was_replaced_is_told_apart(server: Server) -> None:
    with CuttingProxy(server.http_port) as proxy, Browser(DEMO_CLIP) as browser:
        browser.open(home(proxy.port))
        proxy.cut()
        browser.click("main")
        browser.wait_text("problem-title", "does not answer")
        proxy.mend()
        browser.click("problem-action")
        browser.wait_text("status-text", "Listening")
    with Browser(DEMO_CLIP) as browser:
        # What a page of another version finds where its worklet was.
        browser.before_pages(
            "const { addModule } = Worklet.prototype;"
            "Worklet.prototype.addModule = function () {"
            '  return addModule.call(this, "/web/of-another-version/worklet.js"); };'
            "const ask = window.fetch;"
            "window.fetch = (url, options) => ask(options?.method === 'HEAD' ? "
            "'/web/of-another-version/worklet.js' : url, options);"
        )
        browser.open(home(server.http_port))
        browser.click("main")
        browser.wait_text("problem-title", "out of date")
        assert browser.text("problem-action") == "Load again"


def test_the_overlay_shows_captions_by_itself(server: Server) -> None:
    with Browser(DEMO_CLIP) as browser:
        browser.open(home(server.http_port) + "overlay?size=40&lines=1&hide=4&mic=fake")
        seen: set[str] = set()

        def read() -> bool:
            seen.update(words_of(browser.text("text")))
            return LAST_WORD in seen

        wait_for("the clip's last word", read, CLIP_TIMEOUT_S)
        assert len(set(words_of(DEMO_TEXT)) - seen) <= 4
        bar = browser.element("bar")
        assert bar.size["height"] < 2 * 1.32 * 40
        transparent = "rgba(0, 0, 0, 0)"
        for element in ("body", "documentElement"):
            color = f"return getComputedStyle(document.{element}).backgroundColor"
            assert browser.run(color) == transparent
        wait_for("an empty bar after silence", lambda: not bar.is_displayed())
        assert browser.logs() == []


def test_the_overlay_in_a_browser_that_wants_a_click_says_so(server: Server) -> None:
    with Browser(DEMO_CLIP) as browser:
        browser.before_pages(WANTS_A_CLICK)
        browser.open(home(server.http_port) + "overlay")
        browser.wait_text("message", "Click the page once")
        browser.driver.find_element("css selector", "body").click()
        wait_for("captions", lambda: browser.text("text"), CLIP_TIMEOUT_S)


def test_a_file_is_transcribed_in_a_tab_of_its_own(server: Server) -> None:
    with Browser() as browser:
        browser.open(home(server.http_port))
        browser.element("file").send_keys(str(DEMO_CLIP))
        browser.wait_text("tabs", "clip.wav", CLIP_TIMEOUT_S)
        assert word_error_rate(DEMO_TEXT, " ".join(lines(browser))) <= MAX_WORD_ERROR_RATE
        assert browser.logs() == []
        browser.click("clear")  # closes it
        assert lines(browser) == []
        assert not browser.element("tabs").is_displayed()


def test_a_file_without_sound_says_so(server: Server, tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp3"
    broken.write_bytes(b"no audio at all" * 100)
    with Browser() as browser:
        browser.open(home(server.http_port))
        browser.element("file").send_keys(str(broken))
        browser.wait_text("problem-title", "No sound found", CLIP_TIMEOUT_S)


def test_everything_can_be_done_with_the_keyboard(server: Server) -> None:
    from selenium.webdriver.common.keys import Keys

    with Browser(DEMO_CLIP, size=PHONE) as browser:
        browser.open(home(server.http_port))

        def press(*keys: str) -> None:
            browser.driver.switch_to.active_element.send_keys(*keys)

        seen = []
        for _ in range(12):
            press(Keys.TAB)
            seen.append(browser.run("return document.activeElement.id"))
            if seen[-1] == "panel-open":
                break
        assert [name for name in seen if name] == ["theme", "scroller", "main", "panel-open"]
        outline = "return getComputedStyle(document.activeElement).outlineStyle"
        assert browser.run(outline) == "solid"
        press(Keys.ENTER)
        assert browser.run("return document.activeElement.id") == "panel-close"
        press(Keys.ESCAPE)
        assert browser.run("return document.activeElement.id") == "panel-open"
        press(Keys.ALT, "p")
        browser.wait_text("status-text", "Listening")
        press(Keys.ALT, "p")
        wait_for("the pause", lambda: browser.text("main-text") != "Pause")


@pytest.mark.parametrize(
    ("flags", "address", "title"),
    [
        (("--deny-permission-prompts",), "127.0.0.1", "blocked"),
        (("--host-resolver-rules=MAP page.test 127.0.0.1",), "page.test", "secure page"),
    ],
)
def test_no_microphone_says_why(
    server: Server, flags: tuple[str, ...], address: str, title: str
) -> None:
    with Browser(granted=False, flags=flags) as browser:
        browser.open(f"http://{address}:{server.http_port}/")
        browser.click("main")
        browser.wait_text("problem-title", title)
        assert browser.text("main-text") == "Start"


def test_a_browser_without_audio_worklets_says_so(server: Server) -> None:
    with Browser(DEMO_CLIP) as browser:
        browser.before_pages("delete window.AudioWorkletNode")
        browser.open(home(server.http_port))
        browser.wait_text("problem-title", "too old")


def test_a_full_server_that_wants_a_token(
    tmp_path: Path, token_file: Callable[[Path], str]
) -> None:
    tokens = tmp_path / "tokens"
    token = token_file(tokens)
    half = write_wav(tmp_path / "half.wav", demo_clip()[: 6 * RATE_HZ], RATE_HZ)
    with Server("--max-sessions", "1", "--tokens", str(tokens)) as server, Browser(half) as browser:
        browser.open(home(server.http_port))
        browser.wait_text("problem-title", "asks for a token")
        browser.element("token").send_keys("wrong", "\n")
        browser.wait_text("problem-title", "did not accept")
        with Client.connect(server.websocket_url, token=token) as other:
            other.open(Hello())
            other.send_audio(np.zeros(RATE_HZ, np.int16).tobytes())
            assert isinstance(other.next_event(10.0), Started)
            browser.element("token").clear()
            browser.element("token").send_keys(token, "\n")
            wait_for("no question", lambda: not browser.element("problem").is_displayed())
            browser.click("main")
            browser.wait_text("problem-title", "The server is full")
            browser.wait_text("problem-text", "Trying again")
        wait_for("text at last", lambda: "welcome" in words_of(" ".join(lines(browser))), 60.0)


@pytest.fixture
def token_file() -> Callable[[Path], str]:
    """Writes a file with one token, and tells the token."""
    import hashlib

    def write(path: Path) -> str:
        secret = "a-token-of-the-page-test"
        path.write_text(f"page {hashlib.sha256(secret.encode()).hexdigest()}\n")
        path.chmod(0o600)
        return secret

    return write


def test_the_page_is_served_before_anybody_is_ready(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.http_port), timeout=10) as sock:
        sock.sendall(b"HEAD /overlay HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        head = sock.recv(65_536).decode()
    assert head.startswith("HTTP/1.1 200")
    assert "content-security-policy: default-src 'none'" in head.lower()
