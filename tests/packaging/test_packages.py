"""Wheel and source distribution: whole, typed, and enough for an environment that has nothing else of ours."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import pytest

from protocol.report import read_report
from tests.packaging.environments import ROOT, Environment, build, copy_of_the_tree, files_of, unpack

pytestmark = pytest.mark.processes
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PACKAGES = ("protocol", "workloads", "broker", "assistant", "boss", "autoassist")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_of_the_tree(tmp_path_factory.mktemp("tree") / "autoassist")


@pytest.fixture(scope="module")
def sdist(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("sdist", tree, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that is made of the source distribution."""
    source = unpack(sdist, tmp_path_factory.mktemp("unpacked"))
    return build("wheel", source, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return Environment.make(tmp_path_factory.mktemp("environment") / "venv", wheel)


def sources(tree: Path) -> set[str]:
    """All files of our packages."""
    paths = (path for package in PACKAGES for path in (tree / package).rglob("*"))
    return {str(path.relative_to(tree)) for path in paths if path.is_file()}


def test_the_wheel_of_the_source_distribution_holds_every_file_of_our_packages_and_no_other(
    tree: Path, wheel: Path
) -> None:
    assert files_of(wheel) == sources(tree)


def test_the_wheel_of_a_checkout_is_the_same_as_that_of_the_source_distribution(
    tree: Path, wheel: Path, tmp_path: Path
) -> None:
    assert files_of(build("wheel", tree, tmp_path / "wheel")) == files_of(wheel)


def test_every_package_says_that_it_is_typed(wheel: Path) -> None:
    assert {f"{package}/py.typed" for package in PACKAGES} <= files_of(wheel)


def test_the_source_distribution_holds_what_make_the_tests_and_the_images_need(tree: Path, sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {"Makefile", "constraints.txt", "LICENSE", "docker-compose.yml", ".ci/run", "deploy/Dockerfile"}
    assert wanted <= names
    assert {str(path.relative_to(tree)) for path in (tree / "tests").rglob("*.py")} <= names
    assert not [name for name in names if name.endswith((".key", ".pyc"))]


def test_a_bare_installation_runs_digits_with_its_own_modules_alone(environment: Environment, tmp_path: Path) -> None:
    code = "import sys, importlib.util as u; print(*(u.find_spec(name).origin for name in sys.argv[1:]), sep='\\n')"
    found = environment.run("python", "-c", code, *PACKAGES, cwd=tmp_path)
    assert all(Path(line).is_relative_to(environment.path) for line in found.stdout.splitlines()), found.stdout
    extra = environment.run("python", "-c", "import sklearn", cwd=tmp_path)
    assert "No module named 'sklearn'" in extra.stderr, "an extra's package came along"
    words = ("run", "digits", "--epochs", "1", "--deterministic", "--run-dir", "mine")
    done = environment.run("autoassist", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    report = read_report(tmp_path / "mine")
    assert report.status == "finished" and report.n == 1442
    assert report.metric.value is not None and report.metric.value > 0.3
    assert report.assistants[0].windows > 0, "deterministic, so the Boss has waited for the Assistant"


def test_the_version_on_the_command_line_is_the_wheels(environment: Environment, tmp_path: Path) -> None:
    assert environment.run("autoassist", "--version", cwd=tmp_path).stdout.strip() == PROJECT["version"]


def test_a_users_mypy_sees_our_types(environment: Environment, tmp_path: Path) -> None:
    script = tmp_path / "mine.py"
    script.write_text("from protocol.settings import RunSettings\n\nRunSettings(epochs='three')\n")
    words = [sys.executable, "-m", "mypy", "--python-executable", str(environment.program("python"))]
    done = subprocess.run(
        [*words, "--cache-dir", str(tmp_path / "cache"), str(script)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert 'mine.py:3: error: Argument "epochs" to "RunSettings"' in done.stdout, done.stdout
