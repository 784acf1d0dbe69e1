"""Who may look at the page, and what a browser may do with what it gets."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from autoassist.monitor.app import STATIC, make_app
from autoassist.monitor.board import Board
from autoassist.monitor.gate import Admission
from autoassist.monitor_command import PageSettings
from protocol.errors import SettingError
from protocol.hosts import is_this_host, names_of

TOKEN = "t0ken-of-at-least-sixteen"
LOOPBACK = "http://127.0.0.1:8080"


def client(token: str = "", base: str = LOOPBACK) -> TestClient:
    return TestClient(make_app(Board(), Admission(token=token)), base_url=base, follow_redirects=False)


def test_the_page_and_its_files_are_there_and_nothing_else_is() -> None:
    browser = client()
    assert "<main>" in browser.get("/").text
    for path in ("/static/page.js", "/static/page.css", "/charts.json", "/latest.json"):
        assert browser.get(path).status_code == 200, path
    for path in ("/nothing", "/static/", "/static/../app.py", "/static/%2e%2e/app.py", "/static/nothing.js"):
        assert browser.get(path).status_code == 404, path


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "FROB"])
@pytest.mark.parametrize("path", ["/", "/events", "/nothing"])
def test_nothing_but_reading_is_answered(method: str, path: str) -> None:
    answer = client().request(method, path)
    assert answer.status_code == 405 and answer.headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize("path", ["/", "/static/page.js", "/latest.json", "/nothing"])
def test_every_answer_forbids_scripts_frames_and_other_origins(path: str) -> None:
    headers = client().get(path).headers
    policy = dict(part.strip().partition(" ")[::2] for part in headers["content-security-policy"].split(";"))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert {policy[f"{kind}-src"] for kind in ("script", "style", "img", "connect")} == {"'self'"}
    assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert "access-control-allow-origin" not in headers and "server" not in headers


def test_the_page_needs_nothing_that_its_policy_forbids_or_the_network_gives() -> None:
    files = [path for path in STATIC.rglob("*") if path.suffix in (".html", ".js", ".css", ".svg")]
    assert len(files) > 5
    for path in files:
        text = path.read_text()
        urls = set(re.findall(r"https?://[^\s\"'`)]+", text)) - {"http://www.w3.org/2000/svg"}
        assert not urls or "uplot" in str(path).lower(), (path, urls)
        if path.suffix == ".html":
            assert not re.search(r"<style|\son\w+=|\sstyle=|<script(?![^>]*\ssrc=)|javascript:", text), path
        if path.suffix == ".js":
            assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text)
    for source in re.findall(r'(?:src|href)="(/[^"]+)"', (STATIC / "index.html").read_text()):
        assert client().get(source).status_code == 200, source


def test_the_vendored_library_has_its_licence_beside_it() -> None:
    (folder,) = STATIC.glob("uplot-*")
    assert "MIT License" in (folder / "LICENSE").read_text()


@pytest.mark.parametrize(
    ("header", "is_ours"),
    [
        *((name, True) for name in ("127.0.0.1:8080", "localhost:8080", "LOCALHOST", "[::1]:8080", "[::1]", "::1")),
        *((name, True) for name in ("192.168.1.7:8080", "page.example:80")),
        *((name, False) for name in ("evil.example", "evil.example:8080", "127.0.0.1.evil.example", "")),
        *((name, False) for name in ("localhost.evil.example:8080", "localhost:8080:9", "localhost:x", "[::1]evil")),
        *((name, False) for name in ("127.0.0.1@evil.example", "localhost, evil.example", "[evil.example]:80")),
    ],
)
def test_a_host_header_must_name_this_host(header: str, is_ours: bool) -> None:
    """An attacker's page reaches 127.0.0.1 by a name of its own that its DNS points there, and no other way."""
    assert is_this_host(header, names_of("127.0.0.1", ["Page.Example"])) is is_ours
    allowed = Admission(hosts=["page.example", "localhost"])
    answer = TestClient(make_app(Board(), allowed)).get("/latest.json", headers={"Host": header})
    assert answer.status_code == (200 if is_ours else 421)


def test_without_the_token_nothing_is_told() -> None:
    browser = client(TOKEN)
    for path in ("/", "/latest.json", "/events", "/static/page.js", "/nothing", f"/latest.json?token={TOKEN}"):
        answer = browser.get(path)
        assert answer.status_code == 401 and TOKEN not in answer.text, path
    for wrong in ("", "x", TOKEN[:-1], TOKEN + "x", "ü" * 30):
        assert browser.get("/", params={"token": wrong}).status_code == 401
        bearer = {"Authorization": b"Bearer " + wrong.encode()}
        assert browser.get("/latest.json", headers=bearer).status_code == 401


def test_the_token_in_the_address_becomes_a_cookie_that_scripts_cannot_read() -> None:
    browser = client(TOKEN)
    answer = browser.get("/", params={"token": TOKEN})
    assert answer.status_code == 303 and answer.headers["location"] == "/"
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=strict" in cookie
    assert browser.get("/").status_code == browser.get("/latest.json").status_code == 200


def test_scripts_give_the_token_as_bearer() -> None:
    assert client(TOKEN).get("/latest.json", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200


def test_a_token_is_needed_beyond_loopback_and_where_keys_are_used() -> None:
    assert PageSettings().token(keyed=False) == "" == PageSettings(host="::1").token(keyed=False)
    assert len(PageSettings().token(keyed=True)) >= 32
    first, second = (PageSettings(host="0.0.0.0").token(keyed=False) for _ in range(2))
    assert len(first) >= 32 and first != second


def test_a_token_of_ones_own_comes_from_a_private_file(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN + "\nmore\n")
    file.chmod(0o600)
    assert PageSettings(token_file=file).token(keyed=False) == TOKEN
    file.chmod(0o644)
    with pytest.raises(SettingError, match="others can read it"):
        PageSettings(token_file=file).token(keyed=False)
    file.chmod(0o600)
    file.write_text("short")
    with pytest.raises(SettingError, match="16 or more letters"):
        PageSettings(token_file=file).token(keyed=False)
    with pytest.raises(SettingError, match="token_file="):
        PageSettings(token_file=tmp_path / "none").token(keyed=False)
