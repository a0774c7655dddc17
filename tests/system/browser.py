"""Headless Chromium with a fake microphone: what the page tests see of it.

The microphone plays a wav file once, from the moment a page opens it. Tests that need a browser are
skipped where Chromium, its driver or Selenium is missing.
"""

from __future__ import annotations

import shutil
import tempfile
import wave
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pytest

from .audio import Samples
from .waiting import wait_for

PHONE = (390, 844)
DESKTOP = (1280, 800)
# Not even a browser of a test asks the network for anything.
_FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--hide-scrollbars",
)  # fmt: skip
_FAKE_MICROPHONE = "--use-fake-device-for-media-stream"
_GRANTED = "--use-fake-ui-for-media-stream"


class Browser:
    """Context manager; `logs()` holds what the page's console got."""

    def __init__(
        self,
        microphone: Path | None = None,
        *,
        size: tuple[int, int] = DESKTOP,
        dark: bool = False,
        granted: bool = True,
        flags: Sequence[str] = (),
    ) -> None:
        webdriver = pytest.importorskip("selenium.webdriver")
        chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
        if chromium is None or driver is None:
            pytest.skip("no chromium with chromedriver on this machine")
        self._profile = tempfile.TemporaryDirectory(prefix="earwire-browser-")
        options = webdriver.ChromeOptions()
        options.binary_location = chromium
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        all_flags = [*_FLAGS, _FAKE_MICROPHONE, f"--user-data-dir={self._profile.name}", *flags]
        if granted:
            all_flags.append(_GRANTED)
        if microphone is not None:
            all_flags.append(f"--use-file-for-fake-audio-capture={microphone}%noloop")
        for flag in all_flags:
            options.add_argument(flag)
        self.driver: Any = webdriver.Chrome(
            options=options, service=webdriver.ChromeService(driver)
        )
        self._look_like(size, dark)

    def _look_like(self, size: tuple[int, int], dark: bool) -> None:
        width, height = size
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1}
        is_phone = size == PHONE
        self.cdp("Emulation.setDeviceMetricsOverride", {**metrics, "mobile": is_phone})
        self.cdp("Emulation.setTouchEmulationEnabled", {"enabled": is_phone})
        theme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.cdp("Emulation.setEmulatedMedia", {"features": [theme]})

    def cdp(self, command: str, arguments: dict[str, Any]) -> Any:
        """A command of the DevTools protocol."""
        return self.driver.execute_cdp_cmd(command, arguments)

    def open(self, url: str) -> None:
        """Load a page, and wait until it is."""
        self.driver.get(url)

    def before_pages(self, script: str) -> None:
        """JavaScript that every page finds done."""
        self.cdp("Page.addScriptToEvaluateOnNewDocument", {"source": script})

    def run(self, script: str, *arguments: object) -> Any:
        """The value of a JavaScript function body."""
        return self.driver.execute_script(script, *arguments)

    def element(self, element_id: str) -> Any:
        """By its id."""
        return self.driver.find_element("id", element_id)

    def click(self, element_id: str) -> None:
        """As a person does: it has to be in sight."""
        self.element(element_id).click()

    def text(self, element_id: str) -> str:
        """What a person reads there."""
        return str(self.element(element_id).text)

    def wait_text(self, element_id: str, part: str, timeout_s: float = 30.0) -> str:
        """Until the element shows `part`."""
        return wait_for(
            f"{part!r} in {element_id}",
            lambda: shown if part in (shown := self.text(element_id)) else None,
            timeout_s,
        )

    def logs(self) -> list[str]:
        """Warnings and errors since the last call: of scripts, of the network, of the policy."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def screenshot(self, path: Path) -> None:
        """A PNG of what is in sight."""
        self.driver.save_screenshot(str(path))

    def close(self) -> None:
        """End the browser."""
        self.driver.quit()
        self._profile.cleanup()

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def write_wav(path: Path, samples: Samples, rate_hz: int) -> Path:
    """A mono file for the fake microphone."""
    with wave.open(str(path), "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(rate_hz)
        writer.writeframes(samples.astype(np.int16).tobytes())
    return path
