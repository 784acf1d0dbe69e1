"""deploy/kubernetes: valid for the cluster, and one with our command line and with itself in names, ports and keys."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from autoassist.keys_command import make_keys
from tests.unit.project.shell_commands import commands, parse, parse_torchrun

ROOT = Path(__file__).resolve().parents[3]
BASE = ROOT / "deploy" / "kubernetes" / "base"
VERSIONS = ("1.31", kubernetes_validate.latest_version())
"""The oldest in which a Job's failure policy is stable, and the newest that the schemas know."""
ROLES = ("broker", "assistant", "boss")
Manifest = dict[str, Any]


@cache
def kustomization() -> Manifest:
    loaded = yaml.safe_load((BASE / "kustomization.yaml").read_text())
    assert isinstance(loaded, dict)
    return loaded


def manifests() -> Iterator[Manifest]:
    """As they are written, without what kustomize adds."""
    for name in kustomization()["resources"]:
        yield from yaml.safe_load_all((BASE / name).read_text())


def find(kind: str, name: str) -> Manifest:
    (found,) = [one for one in manifests() if one["kind"] == kind and one["metadata"]["name"] == name]
    return found


def workload(role: str) -> Manifest:
    return find({"broker": "StatefulSet", "assistant": "Deployment", "boss": "Job"}[role], role)


def pod(role: str) -> Manifest:
    spec = workload(role)["spec"]["template"]["spec"]
    assert isinstance(spec, dict)
    return spec


def container(role: str) -> Manifest:
    (one,) = pod(role)["containers"]
    assert isinstance(one, dict)
    return one


def variables(role: str) -> dict[str, str]:
    """What the container's environment holds, with something in place of what the cluster fills in."""
    (generated,) = kustomization()["configMapGenerator"]
    assert container(role)["envFrom"] == [{"configMapRef": {"name": generated["name"]}}]
    own = {one["name"]: one.get("value", "0") for one in container(role).get("env", [])}
    return dict(literal.split("=", 1) for literal in generated["literals"]) | own


def line(role: str) -> str:
    """The role's command line."""
    one = container(role)
    (found,) = commands(one["args"][0] if one["command"][0] == "sh" else " ".join([*one["command"], *one["args"]]))
    return found


def command(role: str) -> Any:
    return parse(line(role), variables(role))


def ports(role: str) -> dict[str, int]:
    return {one["name"]: one["containerPort"] for one in container(role).get("ports", [])}


@pytest.mark.parametrize("version", VERSIONS)
def test_the_manifests_are_valid(version: str) -> None:
    checked = [kubernetes_validate.validate(one, version, strict=True) for one in manifests()]
    assert len(checked) > 8


def test_the_check_finds_a_field_that_there_is_not() -> None:
    wrong = find("Job", "boss")
    wrong["spec"]["completion"] = 2
    with pytest.raises(kubernetes_validate.ValidationError, match="completion"):
        kubernetes_validate.validate(wrong, VERSIONS[0], strict=True)


@pytest.mark.parametrize("role", ROLES)
def test_commands_are_such_that_our_command_line_takes(role: str) -> None:
    assert type(command(role)).__name__ == f"{role.capitalize()}Command"


def test_the_brokers_ports_are_those_of_its_service_its_container_and_the_network_policy() -> None:
    broker = command("broker")
    asked = {
        "roles": broker.broker.port,
        "statistics": broker.broker.statistics_port,
        "previews": broker.broker.preview_port,
        "http": broker.monitor.http_port,
    }
    assert (
        asked
        == ports("broker")
        == {one["targetPort"]: one["port"] for one in find("Service", "broker")["spec"]["ports"]}
    )
    (roles, others) = find("NetworkPolicy", "broker")["spec"]["ingress"]
    assert roles["ports"] == [{"port": "roles"}]
    assert {one["port"] for one in [*roles["ports"], *others["ports"]]} == set(asked)


@pytest.mark.parametrize("role", ["assistant", "boss"])
def test_roles_look_for_the_broker_where_its_service_is(role: str) -> None:
    assert (
        command(role).connect.broker
        == f"tcp://{find('Service', 'broker')['metadata']['name']}:{ports('broker')['roles']}"
    )


@pytest.mark.parametrize(
    ("role", "probes"),
    [("broker", ["startupProbe", "livenessProbe", "readinessProbe"]), ("assistant", ["startupProbe", "livenessProbe"])],
)
def test_probes_ask_where_the_role_answers(role: str, probes: list[str]) -> None:
    assert [name for name in container(role) if name.endswith("Probe")] == probes
    assert all(container(role)[probe]["httpGet"] == {"path": "/healthz", "port": "http"} for probe in probes)
    startup = container(role)["startupProbe"]
    patience_s = 0 if role == "broker" else command(role).connect.connect_timeout_s
    assert startup["periodSeconds"] * startup["failureThreshold"] >= patience_s, "it is not killed while it looks"
    asked = command(role).monitor
    assert (asked.http_host, asked.http_port) == ("0.0.0.0", ports(role)["http"])
    rules = find("NetworkPolicy", role)["spec"]["ingress"]
    assert {"port": "http"} in rules[-1]["ports"], "Prometheus gets in"


def test_the_ranks_are_as_many_as_pods_and_meet_at_the_first() -> None:
    job, options = workload("boss")["spec"], parse_torchrun(line("boss"), variables("boss"))
    assert job["completionMode"] == "Indexed" and options.node_rank == 0
    assert int(options.nnodes) == job["completions"] == job["parallelism"]
    service = find("Service", "boss")
    assert options.master_addr == f"boss-0.{service['metadata']['name']}" and pod("boss")["subdomain"] == "boss"
    assert service["spec"]["clusterIP"] == "None" and service["spec"]["publishNotReadyAddresses"] is True
    assert options.master_port == ports("boss")["rendezvous"] == service["spec"]["ports"][0]["port"]


def test_a_boss_that_is_started_again_goes_on() -> None:
    checkpoints = command("boss").checkpoints
    assert checkpoints.resume and checkpoints.checkpoint_every > 0
    assert command("broker").broker.resume, "a run that a stopped Boss has ended can be taken up again"


@pytest.mark.parametrize("role", ROLES)
def test_directories_lie_on_volumes(role: str) -> None:
    mounts = {one["mountPath"]: one["name"] for one in container(role)["volumeMounts"]}
    volumes = {one["name"]: one for one in pod(role)["volumes"]}
    assert set(mounts.values()) == set(volumes), "each volume is mounted"
    asked = command(role)
    kept = {
        "broker": lambda: [(asked.broker.run_dir, "runs")],
        "assistant": lambda: [(asked.assistant.state_dir, None)],
        "boss": lambda: [(asked.checkpoints.checkpoint_dir, "checkpoints"), (asked.checkpoints.save, "checkpoints")],
    }[role]()
    for path, claim in kept:
        (mount,) = [mount for mount in mounts if path.is_relative_to(mount)]
        assert claim is None or volumes[mounts[mount]]["persistentVolumeClaim"] == {"claimName": claim}
        assert claim is None or find("PersistentVolumeClaim", claim)


@pytest.mark.parametrize("role", ROLES)
def test_each_role_is_given_its_own_key_and_no_other(role: str, tmp_path: Path) -> None:
    make_keys(tmp_path)
    generated = {one["name"]: [Path(file).name for file in one["files"]] for one in kustomization()["secretGenerator"]}
    (secret,) = [one["secret"] for one in pod(role)["volumes"] if "secret" in one]
    wanted = {"broker.key", "allowed.txt"} if role == "broker" else {f"{role}.key"}
    assert set(generated[secret["secretName"]]) == wanted <= {path.name for path in tmp_path.iterdir()}
    assert secret["defaultMode"] == 0o440 and pod(role)["securityContext"]["fsGroup"] == 1000
    (mount,) = [one["mountPath"] for one in container(role)["volumeMounts"] if one["name"] == "keys"]
    asked = command(role)
    assert str(asked.broker.keys if role == "broker" else asked.connect.keys) == mount


@pytest.mark.parametrize("role", ROLES)
def test_containers_are_confined_and_say_what_they_need(role: str) -> None:
    one, spec = container(role), pod(role)
    assert spec["securityContext"]["runAsNonRoot"] is True and spec["automountServiceAccountToken"] is False
    context = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    assert one["securityContext"] == context
    assert {"cpu", "memory"} <= set(one["resources"]["requests"]) and "memory" in one["resources"]["limits"]


def test_selectors_and_policies_name_labels_that_pods_have() -> None:
    labels = {workload(role)["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/name"] for role in ROLES}
    assert labels == set(ROLES)
    text = "".join(path.read_text() for path in BASE.glob("*.yaml"))
    assert set(re.findall(r"app.kubernetes.io/name: (\w+)", text)) == labels


def test_nobody_gets_in_but_whom_a_policy_names_and_the_broker_calls_nobody() -> None:
    everybody = find("NetworkPolicy", "nobody")["spec"]
    assert everybody == {"podSelector": {}, "policyTypes": ["Ingress"]}
    broker = find("NetworkPolicy", "broker")["spec"]
    assert "Egress" in broker["policyTypes"] and not broker.get("egress")
    assert all(
        rule["from"] for one in manifests() if one["kind"] == "NetworkPolicy" for rule in one["spec"].get("ingress", [])
    )


def test_images_are_of_this_version_and_have_the_names_that_compose_gives_them() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    tags = {one["name"]: one["newTag"] for one in kustomization()["images"]}
    assert tags == {container(role)["image"]: version for role in ROLES}
    compose = (ROOT / "docker-compose.yml").read_text()
    assert all(f'"${{IMAGE:-autoassist}}-{role}:${{TAG:-latest}}"' in compose for role in ROLES)


@pytest.mark.parametrize("role", ["broker", "boss"])
def test_an_eviction_kills_the_role_rather_than_ends_the_run(role: str, tmp_path: Path) -> None:
    """As its pod's first process the shell takes all others with it when it leaves."""
    for name in ("autoassist", "torchrun"):
        (tmp_path / name).write_text("#!/bin/sh\necho started\nexec sleep 60\n")
        (tmp_path / name).chmod(0o755)
    shell = subprocess.Popen(
        ["sh", "-c", *container(role)["args"]],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert shell.stdout is not None and shell.stdout.readline() == "started\n"
        shell.terminate()
        assert shell.wait(timeout=30) == 143
    finally:
        os.killpg(shell.pid, signal.SIGKILL)
        shell.stdout.close()


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
@pytest.mark.parametrize("overlay", ["base", "gpu"])
def test_kustomize_makes_valid_manifests_of_them(overlay: str, tmp_path: Path) -> None:
    shutil.copytree(BASE.parent, tmp_path / "kubernetes", ignore=shutil.ignore_patterns("keys"))
    make_keys(tmp_path / "kubernetes" / "base" / "keys")
    words = ["kubectl", "kustomize", str(tmp_path / "kubernetes" / overlay)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    found = {(one["kind"], one["metadata"]["name"]): one for one in yaml.safe_load_all(done.stdout)}
    for one in found.values():
        kubernetes_validate.validate(one, VERSIONS[0], strict=True)
    job = found["Job", "boss"]["spec"]
    reference = job["template"]["spec"]["containers"][0]["envFrom"][0]["configMapRef"]["name"]
    nodes = int(found["ConfigMap", reference]["data"]["NODES"])
    assert nodes == job["completions"] == job["parallelism"] == {"base": 1, "gpu": 2}[overlay]
    image = job["template"]["spec"]["containers"][0]["image"]
    assert image.partition(":")[0] == {"base": "autoassist-boss", "gpu": "autoassist-boss-gpu"}[overlay]
    limits = job["template"]["spec"]["containers"][0]["resources"]["limits"]
    modes = found["PersistentVolumeClaim", "checkpoints"]["spec"]["accessModes"]
    assert (limits.get("nvidia.com/gpu"), modes) == {
        "base": (None, ["ReadWriteOnce"]),
        "gpu": (1, ["ReadWriteMany"]),
    }[overlay]
