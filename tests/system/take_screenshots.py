"""Takes the pictures of docs/screenshots: `python -m tests.system.take_screenshots`.

Look at them: nobody else does. The server is real, and so are the words.
"""

from __future__ import annotations

from pathlib import Path

from .audio import DEMO_CLIP
from .browser import DESKTOP, PHONE, Browser
from .server import Server
from .waiting import wait_for

FOLDER = Path(__file__).parents[2] / "docs" / "screenshots"
NUM_LINES = 2  # finished before the picture is taken
COUNT = "return document.querySelectorAll('#log .line').length"
SCENE = {"r": 58, "g": 72, "b": 92, "a": 1.0}  # stands for a video behind the overlay


def wait_for_words(browser: Browser) -> None:
    """Finished lines, and behind them an open one, partly stable and partly volatile."""
    wait_for("finished lines", lambda: browser.run(COUNT) >= NUM_LINES, 60.0)
    wait_for("both kinds", lambda: browser.text("stable") and browser.text("volatile"), 60.0)


def take_page(url: str, name: str, size: tuple[int, int], dark: bool) -> None:
    """Captions, and on a dark phone the settings."""
    with Browser(DEMO_CLIP, size=size, dark=dark) as browser:
        browser.open(url)
        browser.click("main")
        wait_for_words(browser)
        browser.screenshot(FOLDER / f"{name}.png")
        if size == PHONE and dark:
            browser.click("panel-open")
            slid = "return document.getElementById('panel').getAnimations().length === 0"
            wait_for("the panel", lambda: browser.run(slid))
            browser.screenshot(FOLDER / f"{name}-settings.png")


def take_problem(url: str) -> None:
    """No permission, on a phone."""
    with Browser(size=PHONE, granted=False, flags=["--deny-permission-prompts"]) as browser:
        browser.open(url)
        browser.click("main")
        browser.wait_text("problem-title", "blocked")
        browser.screenshot(FOLDER / "phone-problem.png")


def take_overlay(url: str) -> None:
    """The bar over a plain colour."""
    with Browser(DEMO_CLIP, size=(1280, 360)) as browser:
        browser.cdp("Emulation.setDefaultBackgroundColorOverride", {"color": SCENE})
        browser.open(url + "overlay")
        wait_for("two lines", lambda: "gateway" in browser.text("done"), 60.0)
        wait_for("volatile text", lambda: browser.text("volatile"), 60.0)
        browser.screenshot(FOLDER / "overlay.png")


def main() -> None:
    """All of them."""
    FOLDER.mkdir(exist_ok=True)
    with Server("--threads", "2", native=False) as server:
        url = f"http://127.0.0.1:{server.http_port}/"
        for dark in (False, True):
            theme = "dark" if dark else "light"
            take_page(url, f"desktop-{theme}", DESKTOP, dark)
            take_page(url, f"phone-{theme}", PHONE, dark)
        take_problem(url)
        take_overlay(url)


if __name__ == "__main__":
    main()
