"""Takes the pictures of the page in docs/: a run in headless Chromium, light and dark.

python -m benchmarks.page_screenshots [--workload fashion-mnist] [--seconds 60]
"""

from __future__ import annotations

import argparse
import io
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import ViewportSize, sync_playwright

DOCS = Path(__file__).resolve().parents[1] / "docs"
COLOURS = 256
"""So that a picture has some hundred kilobytes."""
SIZE: ViewportSize = {"width": 1280, "height": 1000}
LEFT_OUT = "#metric, #selection, #roles, #chart-grid > :nth-child(n + 4), [data-group] li:nth-child(n + 10), footer"
"""More than fits in a picture."""
PATIENCE_MS = 300_000
SAYS = "the run's page is at "


@contextmanager
def served_run(workload: str) -> Iterator[str]:
    """The address of the page of a run that lasts as long as it is looked at."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["run", workload, "--run-dir", f"{folder}/run", "--epochs", "20", "--page", "on", "--no-live"]
        command = [sys.executable, "-m", "autoassist", *words]
        run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        assert run.stderr is not None
        try:
            address = next((line.partition(SAYS)[2].strip() for line in run.stderr if SAYS in line), "")
            assert address, "the run has ended without a page"
            threading.Thread(target=lambda: [None for _ in run.stderr or ()], daemon=True).start()
            yield address
        finally:
            run.terminate()
            run.wait()


def leave_out(route: Any) -> None:
    """The page's own style sheet with a rule more: it allows no other."""
    answer = route.fetch()
    route.fulfill(response=answer, body=f"{answer.text()}\n{LEFT_OUT} {{ display: none; }}")


def shoot(page: Any, name: str, scheme: str) -> None:
    """One picture, of the whole page but for what is left out."""
    page.emulate_media(color_scheme=scheme)
    page.wait_for_timeout(1500)  # a turn of the page's own clock, with which it draws anew
    target = DOCS / f"{name}.png"
    image = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB").quantize(COLOURS, kmeans=2)
    image.save(target, optimize=True)
    print(f"{target}: {image.width} × {image.height}, {target.stat().st_size / 1000:.0f} kB")


def main() -> None:
    """Run, look, end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workload", default="fashion-mnist")
    parser.add_argument("--seconds", type=float, default=60.0, help="of curves, from the first evaluation on")
    given = parser.parse_args()
    browser_path = shutil.which("chromium") or shutil.which("google-chrome")
    with served_run(given.workload) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE)
        page.route("**/page.css", leave_out)
        page.goto(address)
        page.locator("[data-group=shrunk] li img").first.wait_for(timeout=PATIENCE_MS)
        page.locator("#metric-chart canvas").wait_for(state="attached", timeout=PATIENCE_MS)
        page.wait_for_timeout(1000 * given.seconds)
        shoot(page, "monitor-light", "light")
        shoot(page, "monitor-dark", "dark")
        browser.close()


if __name__ == "__main__":
    main()
