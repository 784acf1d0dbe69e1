"""The compose files agree with the command line, with each other, and with the images; no engine is needed."""

from __future__ import annotations

import re
import shlex
import shutil
import stat
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from autoassist.cli import _parse
from broker.settings import LOOPBACK
from tests.compose.files import ROLES, ROOT, make_keys, services, words_of
from tests.compose.project import compose_command

GPU = ("docker-compose.yml", "docker-compose.gpu.yml")
WHOLE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES = services()
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text()


def parsed(role: str, folder: Path, **environment: str) -> Any:
    """What a role's command means to our command line."""
    command, *words = words_of(services(**environment)[role], folder)
    assert command == role
    return _parse(command, words)


def mounts(service: dict[str, Any]) -> dict[str, tuple[str, bool]]:
    """What is mounted where, and whether it can be written."""
    parts = [volume.split(":") for volume in service.get("volumes", ())]
    return {place: (source, mode != ["ro"]) for source, place, *mode in parts}


def test_the_broker_listens_with_keys_where_the_roles_and_prometheus_look_for_it(tmp_path: Path) -> None:
    broker = parsed("broker", tmp_path)
    assert broker.broker.keys == Path("/keys") and not broker.broker.insecure
    assert broker.broker.run_dir == Path("/runs/first")
    for role in ("assistant", "boss"):
        connect = parsed(role, tmp_path).connect
        assert (connect.broker, connect.keys) == (f"tcp://broker:{broker.broker.port}", "/keys")
    scrape = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
    assert scrape[0]["static_configs"][0]["targets"] == [f"broker:{broker.monitor.http_port}"]
    assert f"http://127.0.0.1:{broker.monitor.http_port}/" in (ROOT / "deploy" / "compose" / "healthy").read_text()


def test_the_environment_chooses_the_run_the_workload_and_the_options(tmp_path: Path) -> None:
    options = {"RUN": "mine", "WORKLOAD": "fashion-mnist", "EPOCHS": "9", "WORKLOAD_OPTIONS": "--validation"}
    boss = parsed("boss", tmp_path, BOSS_OPTIONS="--policy uniform --seed 3", **options)
    assert (boss.workload, boss.run.epochs, boss.run.policy, boss.run.seed) == ("fashion-mnist", 9, "uniform", 3)
    assert boss.data.validation and boss.checkpoints.save == tmp_path / "mine" / "boss.pt"
    assistant = parsed("assistant", tmp_path, **options)
    assert assistant.workload == "fashion-mnist" and assistant.data.validation
    assert parsed("broker", tmp_path, **options).broker.run_dir == Path("/runs/mine")


def test_assistants_have_names_of_their_own(tmp_path: Path) -> None:
    assert parsed("assistant", tmp_path).assistant.name == f"assistant-{subprocess.getoutput('uname -n')}"


def test_a_boss_resumes_where_one_has_begun_the_run(tmp_path: Path) -> None:
    first, again = parsed("boss", tmp_path), parsed("boss", tmp_path)
    assert not first.checkpoints.resume and again.checkpoints.resume
    assert first.checkpoints.checkpoint_dir == again.checkpoints.checkpoint_dir


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("status", ["finished", "stopped"])
def test_a_finished_run_is_not_touched_and_a_stopped_one_goes_on(tmp_path: Path, role: str, status: str) -> None:
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "report.json").write_text(f'{{\n  "status": "{status}",\n}}\n')
    assert words_of(SERVICES[role], tmp_path), "without weights the Boss has something to do yet"
    (tmp_path / "first" / "boss.pt").touch()
    assert bool(words_of(SERVICES[role], tmp_path)) == (status == "stopped")


def test_the_keys_are_made_once_and_each_role_gets_its_own(tmp_path: Path) -> None:
    for role in ("assistant", "boss", "monitor"):
        (tmp_path / "key-of" / role).mkdir(parents=True)
    make_keys(tmp_path)
    made = {path: path.read_bytes() for path in sorted(tmp_path.glob("key*/**/*")) if path.is_file()}
    assert {str(path.relative_to(tmp_path)) for path in made if path.parent.name != "keys"} == {
        "key-of/assistant/assistant.key",
        "key-of/boss/boss.key",
        "key-of/monitor/monitor.key",
    }
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in made if path.suffix == ".key")
    make_keys(tmp_path)
    assert {path: path.read_bytes() for path in made} == made


def test_keys_can_be_written_by_the_service_that_makes_them_alone() -> None:
    writers = {place: source for place, (source, writes) in mounts(SERVICES["keys"]).items() if writes}
    own = {f"/key-of/{role}": f"{role}-key" for role in ("assistant", "boss", "monitor")}
    assert writers == {"/keys": "keys", **own}
    found = {name: mounts(SERVICES[name])["/keys"] for name in (*ROLES, "page")}
    mine = {"assistant": ("assistant-key", False), "boss": ("boss-key", False), "page": ("monitor-key", False)}
    assert found == {"broker": ("keys", False), **mine}
    assert SERVICES["keys"]["network_mode"] == "none"


def test_no_role_is_reachable_from_outside_and_none_is_insecure() -> None:
    assert WHOLE["networks"]["roles"] == {"internal": True}
    assert SERVICES["broker"]["networks"] == ["roles"]
    for name, service in SERVICES.items():
        assert "--insecure" not in str(service)
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
        assert not service.get("ports") or "monitoring" in service["profiles"], name


@pytest.mark.parametrize("name", [*ROLES, "keys", "page"])
def test_containers_run_contained(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] and service["init"] and service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    if name != "keys":
        assert service["healthcheck"]["test"] == ["CMD", "healthy", name]
    if name in ROLES:
        assert service["restart"] == "on-failure"
        assert service["stop_grace_period"] in ("30s", "1m"), (
            "on a busy host the engine's 10 s do not do for a stop in order"
        )


def test_the_page_is_on_this_host_alone_asks_for_a_token_and_watches_the_broker_with_a_key() -> None:
    page, command = SERVICES["page"], shlex.split(SERVICES["page"]["command"])
    watching = _parse(command[0], command[1:])
    statistics_port = _parse("broker", shlex.split(SERVICES["broker"]["command"])[1:]).broker.statistics_port
    assert watching.target == f"tcp://broker:{statistics_port}" and watching.keys == Path("/keys")
    assert watching.page.token(keyed=True) and watching.page.host not in LOOPBACK
    assert page["ports"] == [f"127.0.0.1:8080:{watching.page.port}"]
    assert f"http://127.0.0.1:{watching.page.port}/" in (ROOT / "deploy" / "compose" / "healthy").read_text()


def test_volumes_networks_and_targets_that_are_used_exist() -> None:
    used = {source for service in SERVICES.values() for source, _ in mounts(service).values()}
    volumes = {source for source in used if not source.startswith(".")}
    assert volumes == set(WHOLE["volumes"])
    assert {name for service in SERVICES.values() for name in service.get("networks", ())} == set(WHOLE["networks"])
    assert all((ROOT / source).exists() for source in used - volumes)
    made = set(re.findall(r"/[\w/-]+", re.sub(r"(?s).*mkdir --parents(.*?)\n.*", r"\1", DOCKERFILE)))
    writable = {place for name in ROLES for place, (source, _) in mounts(SERVICES[name]).items() if source in volumes}
    assert writable | set(mounts(SERVICES["keys"])) <= made, "what is mounted where the image has nothing is root's"


def test_the_images_are_built_from_all_packages_and_end_as_a_user() -> None:
    targets = {service["build"]["target"] for service in SERVICES.values() if "build" in service}
    stages = dict(re.findall(r"(?ms)^FROM \S+ AS (\w+)\n(.*?)(?=^FROM|\Z)", DOCKERFILE))
    assert targets == {"broker", "page", "role"} <= set(stages)
    for target in targets:
        assert re.findall(r"^USER (\w+)$", stages[target], re.M)[-1] == "autoassist"
    (default,) = re.findall(r"^ARG BASE_IMAGE=(.*)$", DOCKERFILE, re.M)
    assert SERVICES["broker"]["build"]["args"]["BASE_IMAGE"] == default
    include = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]["include"]
    carried = set((ROOT / ".dockerignore").read_text().split())
    assert {f"!{pattern.rstrip('*')}" for pattern in include} <= carried


def test_the_gpu_file_changes_the_boss_alone(tmp_path: Path) -> None:
    with_gpu = services(*GPU)
    assert {name for name in with_gpu if with_gpu[name] != SERVICES[name]} == {"boss"}
    boss = with_gpu["boss"]
    assert boss["build"]["args"]["TORCH_INDEX"] == "" and boss["image"] != SERVICES["boss"]["image"]
    assert _parse("boss", words_of(boss, tmp_path)[1:]).train.device == "cuda"


def test_what_the_environment_may_set_is_documented() -> None:
    page = (ROOT / "docs" / "COMPOSE.md").read_text()
    for name in GPU:
        for variable in re.findall(r"\$\{(\w+)", (ROOT / name).read_text()):
            assert f"`{variable}`" in page, variable


@pytest.mark.parametrize("files", [GPU[:1], GPU], ids=["cpu", "gpu"])
def test_docker_compose_accepts_the_files(files: tuple[str, ...]) -> None:
    command = compose_command()
    if not command:
        pytest.skip("neither docker compose nor docker-compose is installed")
    words = [word for name in files for word in ("-f", name)]
    done = subprocess.run(
        [*command, *words, "--profile", "monitoring", "config", "--quiet"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_scripts_of_the_images_are_programs() -> None:
    for path in (ROOT / "deploy" / "compose").iterdir():
        assert path.stat().st_mode & stat.S_IXUSR, path
    checker = shutil.which("shellcheck")
    if checker:
        subprocess.run([checker, ROOT / "deploy" / "compose" / "role"], check=True)
