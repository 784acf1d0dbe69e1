"""The page of a run in a real browser: one run, one browser, everything that a person would see."""

from __future__ import annotations

import re
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest

from autoassist.monitor.series import CHARTS
from tests.processes.roles import DEADLINE_S, HERE, Role, roles

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed; pip install playwright")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(BROWSER is None, reason="no browser was found; on Debian: apt-get install chromium"),
]
expect = sync_api.expect
HEAVY = f"{HERE / 'heavy_digits.py'}:HeavyDigits"


@dataclass
class Site:
    """A run with its page, open in a browser."""

    run: Role
    page: Any
    url: str
    troubles: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def figure(self, name: str) -> Any:
        """The value under this name in the overview."""
        return self.page.locator(f"#figures div:has(dt:text-is('{name}')) b")

    def wait_for(self, state: str) -> None:
        expect(self.page.locator("body")).to_have_attribute("data-state", state)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A run that starts its page by itself, and somebody who looks."""
    run_dir = tmp_path_factory.mktemp("page") / "run"
    with roles() as start, sync_api.sync_playwright() as playwright:
        run = start("run", HEAVY, "--run-dir", str(run_dir), "--epochs", "10000", "--page", "on", "--no-live")
        url = run.wait_for("the run's page is at ").partition(" is at ")[2]
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        expect.set_options(timeout=1000 * DEADLINE_S)
        page = browser.new_page(color_scheme="light")
        made = Site(run, page, url)
        page.on("console", lambda said: made.troubles.append(f"{said.type}: {said.text}"))
        page.on("pageerror", lambda error: made.troubles.append(str(error)))
        page.on("requestfailed", lambda request: made.troubles.extend(failure(request)))
        page.on("request", lambda request: made.asked.append(request.url))
        page.goto(url)
        yield made
        browser.close()


def failure(request: Any) -> list[str]:
    """What a browser gives up itself when a page is left is none."""
    return [] if "ERR_ABORTED" in request.failure else [f"{request.failure}: {request.url}"]


@pytest.fixture(autouse=True)
def no_trouble(site: Site) -> Iterator[None]:
    """Neither an error nor a warning in the console, and not a word to another server."""
    yield
    assert not site.troubles
    assert {urlsplit(url).netloc for url in site.asked if url.startswith("http")} == {urlsplit(site.url).netloc}


def test_the_page_shows_the_run_and_follows_it(site: Site) -> None:
    site.wait_for("live")
    expect(site.figure("Policy")).to_have_text("autoassist")
    expect(site.figure("Ready at the Boss")).to_have_text(re.compile(r"\d+ batches"))
    expect(site.figure("Boss passes")).not_to_have_text("0")
    for name in ("Boss passes", "Steps"):
        expect(site.figure(name)).not_to_have_text(site.figure(name).inner_text())
    expect(site.page.locator("#flow-ready")).to_have_text(re.compile(r"\d+ ready"))
    expect(site.page.locator("#flow-losses")).to_have_text(re.compile(r"[\d.]+ steps/s"))
    expect(site.page.locator("#flow-ready")).to_have_text(re.compile(r"\d+ ready of [1-9]"))
    rows = site.page.locator("#role-table tbody tr")
    expect(rows).to_have_text([re.compile(r"^assistant-0"), re.compile(r"^boss-0"), re.compile(r"^broker.*\d")])


def test_each_chart_is_drawn_and_has_its_values_as_a_table(site: Site) -> None:
    for chart in CHARTS:
        figure = site.page.locator(f"figure[data-chart='{chart.title}']")
        expect(figure.locator("canvas")).to_be_visible()
        expect(figure.locator("[role=img]")).to_have_attribute("aria-label", re.compile(chart.series[0].label))
    steps = site.page.locator("figure[data-chart='Steps a second']")
    expect(steps.locator("table tr")).to_have_count(0)
    steps.locator("summary").focus()
    site.page.keyboard.press("Enter")
    expect(steps.locator("tbody tr").nth(2)).to_be_visible()
    expect(steps.locator("thead")).to_contain_text("steps/s")


def test_the_metric_is_drawn_against_the_passes(site: Site) -> None:
    metric = site.page.locator("figure[data-chart='test_accuracy']")
    expect(metric.locator("canvas")).to_be_visible()
    expect(site.page.locator("#metric-none")).to_be_hidden()


def test_the_instances_are_shown_with_their_pictures_labels_and_losses(site: Site) -> None:
    with site.page.expect_response(re.compile(r"/pictures/.*\.png"), timeout=1000 * DEADLINE_S) as found:
        site.page.reload()
        site.page.locator("#instances").scroll_into_view_if_needed()
    assert found.value.status == 200 and found.value.headers["content-type"] == "image/png"
    for group in ("kept", "shrunk"):
        cards = site.page.locator(f"[data-group={group}] li")
        expect(cards).to_have_count(12)
        expect(cards.first).to_contain_text(
            re.compile(r"ID \d+, label\s\d.*trained (once|\d+ times).*losses [\d.]+", re.S)
        )
        expect(cards.first.locator("img")).to_have_attribute("alt", re.compile(r"instance \d+, label \d"))
    for title in ("Losses", "Keep probability π"):
        expect(site.page.locator(f"figure[data-chart='{title}'] canvas")).to_be_visible()
    expect(site.page.locator("#instances-none")).to_be_hidden()


def test_it_can_be_used_without_a_mouse_and_has_landmarks(site: Site) -> None:
    for landmark in ("banner", "main", "navigation", "contentinfo"):
        assert site.page.get_by_role(landmark).count() == 1, landmark
    assert site.page.get_by_role("heading", level=1).count() == 1
    site.page.locator("body").evaluate("body => body.focus()")
    site.page.keyboard.press("Tab")
    expect(site.page.locator("a.skip")).to_be_focused()
    site.page.keyboard.press("Tab")
    expect(site.page.get_by_role("button", name="Pause")).to_be_focused()
    site.page.keyboard.press("Space")
    site.wait_for("paused")
    site.page.keyboard.press("Space")
    site.wait_for("live")


def test_it_is_dark_where_the_browser_wants_it(site: Site) -> None:
    site.page.emulate_media(color_scheme="light")
    expect(site.page.locator("body")).to_have_css("background-color", "rgb(246, 247, 249)")
    site.page.emulate_media(color_scheme="dark")
    expect(site.page.locator("body")).to_have_css("background-color", "rgb(15, 18, 22)")
    expect(site.page.locator("figure[data-chart='Stock'] canvas")).to_be_visible()


def test_it_survives_a_restart_of_the_broker_and_ends_with_its_run(site: Site) -> None:
    """The last one: what run and browser have started anew must not outlive it."""
    site.wait_for("live")
    roles_of_run = psutil.Process(site.run.process.pid).children()
    broker, page_process = (next(p for p in roles_of_run if p.cmdline()[3] == name) for name in ("broker", "monitor"))
    broker.suspend()
    site.wait_for("silent")
    before = site.figure("Boss passes").inner_text()
    broker.kill()
    site.wait_for("live")
    expect(site.figure("Boss passes")).not_to_have_text(before)
    expect(site.page.locator("figure[data-chart='Steps a second'] canvas")).to_be_visible()
    site.page.context.browser.close()
    site.run.terminate()
    assert site.run.end() == 128 + signal.SIGTERM, site.run.text
    assert not psutil.pid_exists(page_process.pid)
