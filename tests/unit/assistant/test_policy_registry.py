"""Policies by name: built in, or registered by an installed package; what is refused, and with which words."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from assistant.policies import (
    AutoAssist,
    AutoAssistPaper,
    Given,
    Importance,
    ImportanceGradient,
    InfoBatch,
    Moment,
    Policy,
    RandomDrop,
    Rho,
    SelectiveBackprop,
    Uniform,
    find_policy,
    make_policy,
    require_policy,
)
from assistant.policies.registry import BUILT_IN
from protocol.arrays import F32, I64
from protocol.errors import SettingError
from protocol.messages import LossRecord
from protocol.settings import POLICIES, WEIGHED_POLICIES, RunSettings

DOCS = Path(__file__).resolve().parents[3] / "docs" / "POLICIES.md"
N = 8
MIDDLE = Moment(epoch=2, progress=0.5)


class Even(Policy):
    """A policy of a user's: even instances only."""

    def __init__(self, n: int) -> None:
        self.n = n

    @classmethod
    def make(cls, given: Given) -> Even:
        return cls(given.n)

    def observe(self, record: LossRecord) -> None:
        """Nothing."""

    def keep_probability(self, ids: I64, moment: Moment) -> F32:
        return (ids % 2 == 0).astype(np.float32)


class Odd(Even):
    """A policy that answers with what it should not."""

    answer: object = None

    def keep_probability(self, ids: I64, moment: Moment) -> F32:
        return np.asarray(self.answer)


class HalfDone(Policy):
    """A policy without its rule."""

    def observe(self, record: LossRecord) -> None:
        """Nothing."""


no_policy = 3


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if packages with these entry points were installed."""
    lines = {
        "even": f"{__name__}:Even",
        "odd": f"{__name__}:Odd",
        "number": f"{__name__}:no_policy",
        "gone": "no.such.module:X",
        "half": f"{__name__}:HalfDone",
        "infobatch": f"{__name__}:Even",
    }
    found = [metadata.EntryPoint(name, value, "autoassist.policies") for name, value in lines.items()]
    found += [metadata.EntryPoint("twice", f"some.{a}:X", "autoassist.policies") for a in "ab"]
    monkeypatch.setattr(metadata, "entry_points", lambda group: metadata.EntryPoints(found))


@pytest.mark.parametrize(
    "name, kind",
    [
        ("uniform", Uniform),
        ("random-drop", RandomDrop),
        ("autoassist", AutoAssist),
        ("autoassist-paper", AutoAssistPaper),
        ("infobatch", InfoBatch),
        ("selective-backprop", SelectiveBackprop),
        ("rho", Rho),
        ("importance", Importance),
        ("importance-gradient", ImportanceGradient),
    ],
)
def test_settings_name_the_policy(name: str, kind: type[Policy], tmp_path: Path) -> None:
    """A package cannot take the name of one that is built in."""
    np.save(tmp_path / "losses.npy", np.zeros(10))
    settings = RunSettings(policy=name, irreducible_losses=str(tmp_path / "losses.npy"))
    assert type(make_policy(settings, 10).policy) is kind


def test_the_settings_know_the_names_that_are_built_in() -> None:
    assert set(BUILT_IN) == set(POLICIES) >= set(WEIGHED_POLICIES)
    (doc,) = [d for d in _setting_docs() if d.startswith("Rule that turns")]
    assert all(f"{name}," in doc for name in POLICIES)


def _setting_docs() -> list[str]:
    import ast

    import protocol.settings

    tree = ast.parse(Path(protocol.settings.__file__).read_text(encoding="utf-8"))
    return [n.value.value for n in ast.walk(tree) if isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant)]


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_is_described(name: str) -> None:
    assert f"\n## `{name}`\n" in DOCS.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [n for n in POLICIES if n not in ("uniform", "random-drop", "autoassist")])
def test_every_published_policy_cites_its_source(name: str) -> None:
    assert "arXiv" in (BUILT_IN[name].__doc__ or "")


def test_a_policy_of_an_installed_package_is_found_by_its_entry_point() -> None:
    policy = make_policy(RunSettings(policy="even", gate=False), N)
    assert policy.keep_probability(np.arange(4), MIDDLE).tolist() == pytest.approx([1.0, 0.1, 1.0, 0.1])
    assert policy.policy.n == N  # type: ignore[attr-defined]


def test_an_unknown_policy_is_refused_with_the_list_of_those_there_are() -> None:
    with pytest.raises(SettingError) as refused:
        require_policy(RunSettings(policy="rondom-drop"), N, None)
    text = str(refused.value)
    assert text.startswith("policy=rondom-drop: unknown policy; one of autoassist, autoassist-paper, uniform, ")
    assert "importance-gradient, even, gone, " in text and "register it under autoassist.policies" in text


@pytest.mark.parametrize(
    "name, says",
    [
        ("number", "policy=number: .*:no_policy is no subclass of assistant.policies.Policy; derive it from that"),
        ("gone", "policy=gone: no.such.module:X does not load .*No module named 'no'.*; correct it"),
        ("twice", "policy=twice: is registered as some.a:X and as some.b:X; uninstall one of them"),
    ],
)
def test_what_is_registered_and_is_no_policy_is_refused(name: str, says: str) -> None:
    with pytest.raises(SettingError, match=says):
        find_policy(name)


def test_a_class_that_lacks_a_method_is_refused_before_the_run_begins() -> None:
    with pytest.raises(SettingError, match=r"^policy=half: .*:HalfDone lacks keep_probability, which every policy"):
        require_policy(RunSettings(policy="half"), N, None)


def test_a_module_that_ends_the_process_is_refused_as_any_other_that_does_not_load(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "leaves_at_once.py").write_text("import sys\nsys.exit('bye')\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    entry = metadata.EntryPoint("leaves", "leaves_at_once:X", "autoassist.policies")
    monkeypatch.setattr(metadata, "entry_points", lambda group: metadata.EntryPoints([entry]))
    with pytest.raises(SettingError, match=r"^policy=leaves: leaves_at_once:X does not load \(SystemExit: bye\)"):
        find_policy("leaves")


@pytest.mark.parametrize(
    "answer, what",
    [
        ([0.5, 0.5, 0.5], r"float64 of shape \(3,\)"),
        ([0.5, np.nan], r"float64 of shape \(2,\), not all finite"),
        ([1, 0], r"int64 of shape \(2,\)"),
    ],
)
def test_a_policy_that_answers_with_something_else_is_named(answer: object, what: str) -> None:
    Odd.answer = answer
    policy = make_policy(RunSettings(policy="odd", gate=False), N)
    policy.policy.answer = answer  # type: ignore[attr-defined]
    with pytest.raises(
        SettingError, match=rf"policy=odd: Odd.keep_probability gave {what}.*; it must give finite floats"
    ):
        policy.keep_probability(np.arange(2), MIDDLE)


def test_a_class_floor_without_labels_is_refused() -> None:
    with pytest.raises(SettingError, match=r"class_floor=0\.5: the workload gives no labels; leave it at 0"):
        require_policy(RunSettings(class_floor=0.5), N, None)
    require_policy(RunSettings(class_floor=0.5), N, np.zeros(N, dtype=np.int64))


@pytest.mark.parametrize(
    "content, says",
    [
        (None, "cannot be read .*No such file.*; give a .npy file of 8 losses"),
        (b"0.5\n0.25\n", "is no .npy file of numbers; write one with numpy.save: an array of 8 losses, one for each "),
        (b"", "is no .npy file of numbers"),
        (b"PK\x03\x04 and no more", "is no .npy file of numbers"),
        (np.array([None] * 8), "is no .npy file of numbers"),
        (np.zeros(7), r"is float64 of shape \(7,\), expected one number for each of the 8 instances"),
        (np.zeros((8, 1)), r"is float64 of shape \(8, 1\)"),
        (np.array(list("abcdefgh")), "is <U1 of shape"),
        (np.array([0.0] * 5 + [np.inf] + [0.0] * 2), "instance 5 has no finite loss; correct the file"),
    ],
    ids=["missing", "text", "empty", "archive", "objects", "too short", "column", "words", "not finite"],
)
def test_irreducible_losses_that_are_none_are_refused(content: object, says: str, tmp_path: Path) -> None:
    path = tmp_path / "losses.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.save(path, content)  # type: ignore[arg-type]
    with pytest.raises(SettingError, match=f"irreducible_losses=.*losses.npy: {says}") as refused:
        require_policy(RunSettings(policy="rho", irreducible_losses=str(path)), N, None)
    assert "pickle" not in str(refused.value), "NumPy advises to unpickle it"
