"""Python, the packages, torch and its device."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import zmq

from autoassist.doctor.finding import Finding, error, note, ok, warning

LEAST_PYTHON = (3, 11)
EXTRAS = {
    "workloads": "the built-in data sets' small stand-ins, adult and table",
    "parquet": "--data FILE.parquet",
    "plot": "compare.png",
    "monitor": "autoassist monitor",
    "tensorboard": "--tensorboard",
}
"""What extras are for; of others only the name is said."""
NAME = re.compile(r"^([A-Za-z0-9._-]+)\s*(?:>=\s*([0-9.]+))?")
EXTRA = re.compile(r"""extra\s*==\s*['"]([\w-]+)['"]""")


def python(
    version: tuple[int, ...] = tuple(sys.version_info[:3]), bits: int = sys.maxsize.bit_length() + 1
) -> Iterator[Finding]:
    """New enough, and able to map large files."""
    words = f"{'.'.join(map(str, version))}, {bits} bit, {platform.system()} {platform.machine()}"
    if version < LEAST_PYTHON:
        yield error("python", words, f"install Python {'.'.join(map(str, LEAST_PYTHON))} or newer and make install")
    elif bits < 64:
        yield error("python", words, "install a 64-bit Python: features are mapped into memory")
    else:
        yield ok("python", words)


def packages(
    requires: list[str] | None = None, version_of: Callable[[str], str] = metadata.version
) -> Iterator[Finding]:
    """What pip should have installed; the extras are the user's choice."""
    required = requires if requires is not None else metadata.requires("autoassist") or []
    missing: dict[str, list[str]] = {}
    have: list[str] = []
    for line in required:
        found, name, least = NAME.match(line), "", ""
        if found is not None:
            name, least = found[1], found[2] or ""
        extra = EXTRA.search(line)
        problem = _problem(name, least, version_of)
        if extra is None and problem:
            yield error("packages", problem, f"pip install '{line.partition(';')[0].strip()}'")
        elif extra is None:
            have.append(f"{name} {version_of(name)}")
        elif extra[1] != "dev":
            missing.setdefault(extra[1], []).extend([problem] if problem else [])
    yield ok("packages", ", ".join(have))
    for name, problems in missing.items():
        if problems:
            purpose = f"for {EXTRAS[name]}: " if name in EXTRAS else ""
            remedy = f"{purpose}pip install 'autoassist[{name}]'"
            yield note("extras", f"{name}: {'; '.join(problems)}", remedy)
        else:
            yield ok("extras", f"{name} ({EXTRAS[name]})" if name in EXTRAS else name)


def _problem(name: str, least: str, version_of: Callable[[str], str]) -> str:
    try:
        found = version_of(name)
    except metadata.PackageNotFoundError:
        return f"{name} is not installed"
    return f"{name} {found} is older than {least}" if least and _numbers(found) < _numbers(least) else ""


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version.partition("+")[0])][:4]


def transport(version: tuple[int, ...] | None = None, has_curve: bool | None = None) -> Iterator[Finding]:
    """libzmq, and whether it can encrypt."""
    version = zmq.zmq_version_info() if version is None else version
    words = f"libzmq {'.'.join(map(str, version))}"
    if version < (4, 3):
        yield error("transport", words, "pip install -U pyzmq: its wheel brings a newer libzmq")
    elif not (zmq.has("curve") if has_curve is None else has_curve):
        yield warning("transport", f"{words}, without CURVE: --keys cannot be used", "pip install -U pyzmq")
    else:
        yield ok("transport", f"{words} with CURVE")


def torch_and_device(wanted: str = "auto", *, gpu_is_here: bool | None = None) -> Iterator[Finding]:
    """Whether torch loads, and computes where the Boss is to compute."""
    try:
        import torch
    except (ImportError, OSError) as failure:
        remedy = "pip install torch; a broker does without it"
        yield error("torch", f"does not load: {str(failure).splitlines()[0] if str(failure) else failure!r}", remedy)
        return
    yield ok("torch", f"{torch.__version__}, {torch.get_num_threads()} threads")
    has_gpu = torch.cuda.is_available()
    here = Path("/dev/nvidia0").exists() if gpu_is_here is None else gpu_is_here
    build = "pip install a CUDA build of torch for this driver (pytorch.org tells which)"
    if wanted == "cuda" and not has_gpu:
        why = "torch is built without CUDA" if torch.version.cuda is None else "torch finds no GPU that it can use"
        yield error(
            "device", f"--device cuda: {why}", build if here else "give --device cpu, or run on a host with a GPU"
        )
    elif here and not has_gpu and wanted != "cpu":
        yield warning("device", f"a GPU is here, and torch {torch.__version__} cannot use it", build)
    for name in ["cuda"] if has_gpu and wanted != "cpu" else ["cpu"]:
        yield _computes(name)


def _computes(name: str) -> Finding:
    """A forward and a backward pass: a torch that is not built for this GPU fails only here."""
    import torch

    try:
        x = torch.ones(64, 64, device=name, requires_grad=True)
        (x @ x).sum().backward()  # type: ignore[no-untyped-call]
        is_right = x.grad is not None and bool((x.grad == 128.0).all())
    except RuntimeError as failure:
        first = str(failure).splitlines()[0]
        return error(
            "device", f"{name}: {first}", "install the build of torch that is made for it, or give --device cpu"
        )
    if not is_right:
        return error("device", f"{name}: a product of ones is wrong", "do not train on it: the hardware is at fault")
    if name == "cpu":
        return ok("device", "cpu computes")
    gigabytes = torch.cuda.get_device_properties(0).total_memory / 1e9
    count = torch.cuda.device_count()
    return ok("device", f"{count} × {torch.cuda.get_device_name(0)}, {gigabytes:.0f} GB, computes")
