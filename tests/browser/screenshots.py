"""Takes the pictures in docs/screenshots/: `python tests/browser/screenshots.py ADDRESS [FOLDER]` of a running service.

ADDRESS is what `ftmeta serve` prints. Needs playwright and Debian's chromium; fonts-inter and fonts-noto-core make the
pictures look as on most desktops.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

from ftmeta.errors import MissingDependencyError

_FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
# name, colours, width, height, and what comes to the top
_PICTURES = (
    ("service-start.png", "light", 1280, 900, "body"),
    ("service-light.png", "light", 1280, 1120, "body"),
    ("service-trade.png", "dark", 1280, 1120, "#trade"),
    ("service-export.png", "light", 1280, 900, ".card"),
    ("service-dark-phone.png", "dark", 390, 1120, "#results"),
)


def main(address: str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    chromium = shutil.which("chromium")
    if chromium is None:
        raise MissingDependencyError("chromium is missing: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, headless=True, args=_FLAGS)
        for name, scheme, width, height, top in _PICTURES:
            context = browser.new_context(
                color_scheme=scheme, reduced_motion="reduce", viewport={"width": width, "height": height}
            )
            page = context.new_page()
            page.goto(address)
            page.wait_for_selector("#base-model option", state="attached")
            page.click("#example")
            page.wait_for_selector("#understood:not([hidden])")
            if name != "service-start.png":
                page.click("#go")
                page.wait_for_selector(".card")
            if name == "service-export.png":
                page.click(".card:first-child >> text=axolotl")
                page.wait_for_selector(".export h4", timeout=60_000)
                page.click(".export summary:has-text('config.yaml')")
            page.mouse.move(0, 0)
            page.wait_for_timeout(500)  # the copied button's word stays
            page.evaluate("(top) => document.querySelector(top).scrollIntoView()", top)
            page.screenshot(path=folder / name)
            context.close()
        browser.close()


if __name__ == "__main__":
    target = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(__file__).parents[2] / "docs" / "screenshots"
    main(sys.argv[1], target)
