"""Takes the pictures of the page in docs/: a run of the built-in images, seen in headless Chromium.

python -m benchmarks.page_screenshots [--workload digits] [--seconds 60]
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

DOCS = Path(__file__).resolve().parents[1] / "docs"
COLOURS = 64
"""So that a picture has some tens of kilobytes."""
SIZE = {"width": 1200, "height": 1000}
SHOTS = (
    ("monitor-light", "light", "#overview"),
    ("monitor-dark", "dark", "#overview"),
    ("instances", "light", "#instances"),
)


def command(*words: str, **options: object) -> subprocess.Popen[str]:
    """One ``autoassist …`` process."""
    return subprocess.Popen([sys.executable, "-m", "autoassist", *words], text=True, **options)  # type: ignore[call-overload, no-any-return]


def shoot(url: str, seconds: float) -> None:
    """Look for so long, then take the pictures."""
    browser_path = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE)
        page.goto(url)
        page.locator("[data-group=shrunk] li").first.wait_for(timeout=120_000)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            page.wait_for_timeout(1000)
        for name, scheme, place in SHOTS:
            page.emulate_media(color_scheme=scheme)
            page.locator(place).scroll_into_view_if_needed()
            page.evaluate("place => document.querySelector(place).scrollIntoView()", place)
            page.wait_for_timeout(1500)
            target = DOCS / f"{name}.png"
            image = Image.open(io.BytesIO(page.screenshot())).convert("RGB").quantize(COLOURS)
            image.save(target, optimize=True)
            print(f"{target}: {target.stat().st_size / 1000:.0f} kB")
        browser.close()


def main() -> None:
    """Run, look, end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workload", default="digits")
    parser.add_argument("--seconds", type=float, default=60.0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = command("run", given.workload, "--run-dir", f"{folder}/run", "--epochs", "1000", "--page", "off")
        try:
            while not Path(folder, "run", "addresses.json").exists() and run.poll() is None:
                time.sleep(0.2)
            page = command("monitor", f"{folder}/run", "--port", "0", "--announce", stdout=subprocess.PIPE)
            assert page.stdout is not None
            shoot(json.loads(page.stdout.readline())["page"], given.seconds)
            page.terminate()
            page.wait()
        finally:
            run.terminate()
            run.wait()


if __name__ == "__main__":
    main()
