"""From a name to a workload: every mistake is named with its remedy."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from protocol.errors import SettingError, UserError, WorkloadError
from workloads import Workload, load_workload
from workloads.digits import Digits
from workloads.registry import BUILT_IN

GOOD = """
from workloads.digits import Digits
class Mine(Digits):
    name = "mine"
class Other(Digits):
    pass
class Unfinished(Digits.__mro__[1]):
    pass
class Unrelated:
    pass
def function(): ...
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the user's that is also the current one; the import state is put back after."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


def fails(spec: str, *words: str) -> str:
    with pytest.raises(WorkloadError) as caught:
        load_workload(spec)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    return message


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_every_built_in_name_makes_its_workload_without_touching_data(name: str, cache: Path) -> None:
    workload = load_workload(name)
    assert workload.name == name
    assert not cache.exists()


def test_model_and_data_dir_are_handed_on(tmp_path: Path) -> None:
    for name in ("mnist", "fashion-mnist"):
        workload = load_workload(name, model="resnet8", data_dir=tmp_path)
        assert (workload.model, workload.data_dir) == ("resnet8", tmp_path)


def test_a_data_dir_is_refused_where_no_file_would_be_read(tmp_path: Path) -> None:
    """A user who gives his own digits would train on others and not notice."""
    with pytest.raises(SettingError, match=rf"data_dir={tmp_path}: digits is packaged.*leave out --data-dir"):
        load_workload("digits", data_dir=tmp_path)


def test_every_built_in_either_looks_into_a_data_dir_or_refuses_it(tmp_path: Path) -> None:
    """A directory that is not there is the simplest thing to be noticed."""
    for name in BUILT_IN:
        with pytest.raises(UserError, match=str(tmp_path / "nowhere")):
            load_workload(name, data_dir=tmp_path / "nowhere").fingerprint()


def test_a_workload_made_from_a_built_in_one_may_have_a_use_for_a_data_dir(folder: Path) -> None:
    (folder / "mine.py").write_text(GOOD)
    assert load_workload("mine.py:Mine", data_dir=folder).data_dir == folder


@pytest.mark.parametrize(
    ("typed", "meant"), [("fashion_mnist", "fashion-mnist"), ("Digit", "digits"), ("mnits", "mnist")]
)
def test_an_unknown_name_suggests_the_nearest_and_lists_all(typed: str, meant: str) -> None:
    fails(
        typed,
        repr(typed),
        f"did you mean {meant!r}?",
        "digits, fashion-mnist, imbalanced-fashion-mnist, lm, mnist",
        "path/to/file.py:ClassName",
    )


def test_a_name_like_nothing_has_no_suggestion() -> None:
    assert "did you mean" not in fails("zzzz", "'zzzz' is unknown", "built in:")


def test_class_from_a_file(folder: Path) -> None:
    (folder / "mine.py").write_text(GOOD)
    workload = load_workload("mine.py:Mine")
    assert isinstance(workload, Digits)
    assert workload.name == "mine"
    assert type(workload).__module__ in sys.modules
    assert "mine" not in sys.modules
    assert type(load_workload(str(folder / "mine.py") + ":Mine")) is type(workload)


def test_a_file_named_like_an_installed_module_shadows_nothing(folder: Path) -> None:
    import json

    (folder / "json.py").write_text(GOOD)
    load_workload("json.py:Mine")
    assert sys.modules["json"] is json
    assert sys.path.index(str(folder)) > sys.path.index(str(Path(json.__file__).parents[1]))


def test_an_edited_file_is_loaded_anew(folder: Path) -> None:
    (folder / "mine.py").write_text(GOOD)
    load_workload("mine.py:Mine")
    (folder / "mine.py").write_text(GOOD.replace('"mine"', '"edited"'))
    assert load_workload("mine.py:Mine").name == "edited"


def test_a_file_may_import_its_neighbour(folder: Path) -> None:
    (folder / "neighbour_of_mine.py").write_text('NAME = "from next door"')
    (folder / "mine.py").write_text(
        "import neighbour_of_mine\nfrom workloads.digits import Digits\n"
        "class Mine(Digits):\n    name = neighbour_of_mine.NAME\n"
    )
    assert load_workload("mine.py:Mine").name == "from next door"


def test_class_from_a_module(folder: Path) -> None:
    (folder / "a_package_of_mine").mkdir()
    (folder / "a_package_of_mine" / "inner.py").write_text(GOOD)
    assert load_workload("a_package_of_mine.inner:Mine").name == "mine"
    fails("a_package_of_mine.outer:Mine", "'a_package_of_mine.outer' is not found")


def test_missing_file(folder: Path) -> None:
    fails("gone.py:Mine", "gone.py", "No such file", "correct the path")


def test_file_without_a_class(folder: Path) -> None:
    fails("mine.py", "names no class", "mine.py:ClassName")


def test_missing_module() -> None:
    fails("no_such_package.inner:Mine", "'no_such_package.inner' is not found", "install it")


def test_a_file_that_raises_names_the_line_in_it_and_leaves_no_half_module(folder: Path) -> None:
    (folder / "bad.py").write_text("import json\n\njson.loads('{')\n")
    before = set(sys.modules)
    fails("bad.py:Mine", "bad.py does not import", "JSONDecodeError", f"{folder / 'bad.py'}:3")
    assert not [name for name in set(sys.modules) - before if "workload_bad" in name]


def test_a_syntax_error_names_its_line(folder: Path) -> None:
    (folder / "bad.py").write_text("x = 1\ndef f(:\n")
    fails("bad.py:Mine", "SyntaxError", f"{folder / 'bad.py'}:2")


def test_a_binary_file_with_the_name_of_a_program_is_refused(folder: Path) -> None:
    (folder / "bad.py").write_bytes(b"x = 1\0\0")
    assert "None" not in fails("bad.py:Mine", "bad.py does not import", "null bytes")


def test_a_missing_dependency_is_not_mistaken_for_a_missing_workload(folder: Path) -> None:
    (folder / "needs_more_of_it.py").write_text("\nimport not_installed_anywhere\n")
    for spec in ("needs_more_of_it.py:Mine", "needs_more_of_it:Mine"):
        fails(spec, "does not import", "ModuleNotFoundError", "needs_more_of_it.py:2", "install not_installed_anywhere")


@pytest.mark.parametrize("spec", ["bad_exit.py:Mine", "bad_exit:Mine"])
def test_a_file_that_exits_does_not_end_the_program(folder: Path, spec: str) -> None:
    """A script whose work is not under ``if __name__ == "__main__"``."""
    (folder / "bad_exit.py").write_text("import sys\n\nsys.exit(3)\n")
    fails(spec, "does not import", "SystemExit: 3", "bad_exit.py:3", "if __name__ == '__main__'")


@pytest.mark.parametrize("spec", ["bad_base.py:Mine", "bad_base:Mine"])
def test_an_exception_that_is_no_ordinary_one_is_a_mistake_of_the_file_too(folder: Path, spec: str) -> None:
    """Some libraries cancel with exceptions of their own, beside Exception."""
    (folder / "bad_base.py").write_text("class Halt(BaseException): ...\n\nraise Halt('no licence')\n")
    fails(spec, "does not import", "Halt: no licence", "bad_base.py:3", "mend it there")


@pytest.mark.parametrize("spec", ["slow_one.py:Mine", "slow_one:Mine"])
def test_ctrl_c_while_a_file_is_imported_is_no_mistake_of_the_file(folder: Path, spec: str) -> None:
    (folder / "slow_one.py").write_text("raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        load_workload(spec)
    assert not [name for name in sys.modules if "slow_one" in name]


def test_class_missing_lists_the_workloads_that_are_there(folder: Path) -> None:
    (folder / "mine.py").write_text(GOOD)
    fails("mine.py:Mien", "no class 'Mien'", "Digits, Mine, Other")


@pytest.mark.parametrize("name", ["Unrelated", "function"])
def test_what_is_no_workload_is_refused(folder: Path, name: str) -> None:
    (folder / "mine.py").write_text(GOOD)
    fails(f"mine.py:{name}", f"mine.py:{name} is not a subclass", "Digits, Mine, Other")


def test_abstract_methods_that_lack_are_named(folder: Path) -> None:
    (folder / "mine.py").write_text(GOOD)
    fails("mine.py:Unfinished", "Unfinished lacks load_images; implement")
    (folder / "empty.py").write_text("from workloads import Workload\nclass Empty(Workload): ...")
    fails("empty.py:Empty", "lacks batch, boss, evaluate, fingerprint, losses")


def test_a_constructor_with_other_parameters_says_how_it_is_called(folder: Path) -> None:
    (folder / "mine.py").write_text(
        "from workloads.digits import Digits\nclass Mine(Digits):\n    def __init__(self, path): ..."
    )
    fails("mine.py:Mine", "constructor failed", "TypeError", "keywords model and data_dir")


def test_a_constructor_that_exits_does_not_end_the_program(folder: Path) -> None:
    (folder / "mine.py").write_text(
        "import sys\nfrom workloads.digits import Digits\n"
        "class Mine(Digits):\n    def __init__(self, **words): sys.exit('no licence')"
    )
    fails("mine.py:Mine", "constructor failed with SystemExit: no licence", "keywords model and data_dir")


def test_a_users_error_from_the_constructor_passes_unchanged() -> None:
    with pytest.raises(SettingError, match="6n"):
        load_workload("digits", model="resnet19")


def test_public_names() -> None:
    import workloads

    classes = ["CheckedWorkload", "Fingerprint", "Metric", "Workload"]
    assert sorted(workloads.__all__) == [*classes, "load_workload", "validate_workload"]
    assert issubclass(Digits, Workload)
