"""From what the user types after ``--workload`` to a `Workload`: a built-in name, a module or a file."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from protocol.errors import AutoAssistError, SettingError, WorkloadError
from workloads.base import Workload
from workloads.mistakes import REMEDY, described, place_of

Given = Path | str | bool | float | None
"""What a workload's constructor may be given."""

BUILT_IN = {
    "adult": "workloads.adult:Adult",
    "digits": "workloads.digits:Digits",
    "mnist": "workloads.mnist:Mnist",
    "fashion-mnist": "workloads.fashion_mnist:FashionMnist",
    "rotated-mnist": "workloads.variants:RotatedMnist",
    "rotated-mnist-noisy": "workloads.variants:RotatedMnistNoisy",
    "imbalanced-fashion-mnist": "workloads.variants:ImbalancedFashionMnist",
    "lm": "workloads.language_model:LanguageModel",
    "table": "workloads.table:Table",
    "translation": "workloads.translation:Translation",
    "translation-medium": "workloads.translation:TranslationMedium",
}
"""Name to class. Imported when asked for, so that a missing optional package harms nobody else."""


def load_workload(
    spec: str,
    *,
    model: str = "",
    data_dir: Path | None = None,
    data: Path | None = None,
    label: str = "",
    validation: bool = False,
    token_share: float = 1.0,
    reference: Path | None = None,
) -> Workload:
    """Make the workload that ``spec`` names.

    Args:
        spec: A built-in name, ``package.module:ClassName``, or ``path/to/file.py:ClassName``.
        model: The ``--model`` value, "" for the workload's default.
        data_dir: The ``--data-dir`` value.
        data: The ``--data`` value; given to the constructor only if it is there, as is ``label``.
        label: The ``--label`` value, "" for none.
        validation: The ``--validation`` switch; given to the constructor only if it is on.
        token_share: The ``--token-share`` value; given to the constructor only if it is not 1.
        reference: The ``--reference`` value; given to the constructor only if it is there.

    Raises:
        WorkloadError: the name is unknown, the import fails, or the class is not a usable Workload.
        SettingError: one of these for a workload whose constructor has no such keyword.
        AutoAssistError: whatever the workload's constructor says of what it is given, or of the disk.
    """
    location, separator, class_name = BUILT_IN.get(spec, spec).rpartition(":")
    if not separator:
        raise _no_class_named(spec)
    module = _load_file(Path(location)) if location.endswith(".py") else _load_module(location)
    wanted: dict[str, Given] = {"data": data, "label": label, "validation": validation, "reference": reference}
    given = {key: value for key, value in wanted.items() if value}
    if token_share != 1.0:
        given["token_share"] = token_share
    return _construct(_find_class(module, class_name, location), spec, model, data_dir, given)


def _no_class_named(spec: str) -> WorkloadError:
    if spec.endswith(".py"):
        return WorkloadError(f"workload {spec!r} names no class; write {spec}:ClassName")
    near = difflib.get_close_matches(spec.lower().replace("_", "-"), BUILT_IN, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return WorkloadError(
        f"workload {spec!r} is unknown; {hint}built in: {', '.join(sorted(BUILT_IN))}; "
        "your own: package.module:ClassName or path/to/file.py:ClassName"
    )


def _load_module(name: str) -> ModuleType:
    # At the end of the path: a module here must be found, but must never shadow an installed one.
    _append_to_path(Path.cwd())
    try:
        return importlib.import_module(name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        if isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}."):
            message = f"workload module {name!r} is not found; install it or give a file, path/to/file.py:ClassName"
            raise WorkloadError(message) from error
        raise _import_failed(name, None, error) from error


def _load_file(path: Path) -> ModuleType:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise WorkloadError(f"workload file {path}: {error.strerror or error}; correct the path") from error
    resolved = path.resolve()
    # By content too: an edited file is a new module, an unchanged one the same module with the same classes.
    digest = hashlib.sha256(str(resolved).encode() + b"\0" + content).hexdigest()[:12]
    name = f"_autoassist_workload_{path.stem}_{digest}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, resolved)
    if spec is None or spec.loader is None:
        raise WorkloadError(f"workload file {path} is not a Python file; give path/to/file.py:ClassName")
    _append_to_path(resolved.parent)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, KeyboardInterrupt):
            raise
        raise _import_failed(str(path), resolved, error) from error
    return module


def _append_to_path(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def _import_failed(what: str, path: Path | None, error: BaseException) -> WorkloadError:
    """The error with the place where it arose: the deepest line of ``path``, else the deepest line of all."""
    text, place = described(error), place_of(error, None if path is None else str(path))
    if isinstance(error, SyntaxError) and error.filename:
        text, place = f"{type(error).__name__}: {error.msg}", f"{error.filename}:{error.lineno}"
    remedy = REMEDY
    if isinstance(error, SystemExit):
        remedy = "put what only a script should do under if __name__ == '__main__'"
    elif isinstance(error, ModuleNotFoundError):
        remedy = f"install {error.name}, or put it beside the file"
    return WorkloadError(f"workload {what} does not import: {text} at {place}; {remedy}")


def _find_class(module: ModuleType, class_name: str, location: str) -> type[Workload]:
    found = getattr(module, class_name, None)
    if found is None:
        known = ", ".join(_workload_classes(module)) or "none"
        raise WorkloadError(f"{location} has no class {class_name!r}; workload classes in it: {known}")
    if not inspect.isclass(found) or not issubclass(found, Workload):
        known = ", ".join(_workload_classes(module)) or "none"
        raise WorkloadError(
            f"{location}:{class_name} is not a subclass of workloads.Workload; workload classes in it: {known}"
        )
    if missing := sorted(found.__abstractmethods__):
        raise WorkloadError(
            f"{location}:{class_name} lacks {', '.join(missing)}; implement them (see workloads/base.py)"
        )
    return found


def _workload_classes(module: ModuleType) -> list[str]:
    return sorted(
        name
        for name, value in vars(module).items()
        if inspect.isclass(value) and issubclass(value, Workload) and not inspect.isabstract(value)
    )


def _construct(
    cls: type[Workload], spec: str, model: str, data_dir: Path | None, given: Mapping[str, Given]
) -> Workload:
    taken = inspect.signature(cls).parameters
    for key, value in given.items():
        if key == "validation" and key not in taken:
            raise SettingError(
                f"validation={value}: workload {spec} has no such part to choose; leave out --validation, "
                "or take the keyword validation in its constructor"
            )
        if key in ("token_share", "reference") and key not in taken:
            option = key.replace("_", "-")
            raise SettingError(f"{key}={value}: workload {spec} selects no tokens; leave out --{option}, or run lm")
        if key not in taken:
            raise SettingError(f"{key}={value}: workload {spec} reads no table; leave out --{key}, or run table")
    try:
        return cls(model=model, data_dir=data_dir, **given)
    except (AutoAssistError, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise WorkloadError(
            f"workload {spec}: its constructor failed with {described(error)}; "
            "it is called with the keywords model and data_dir"
        ) from error
