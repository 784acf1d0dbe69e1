"""The runs of a comparison: their order, their settings, and which of them are not run again."""

from __future__ import annotations

import ast
import dataclasses
import itertools
from pathlib import Path
from typing import get_args

import msgspec
import pytest
import tyro

from autoassist import compare
from autoassist.compare import CompareCommand
from autoassist.compare_found import Common, Found, finished_before, look
from autoassist.compare_plan import PlannedRun, make_plan, settings_of
from autoassist.compare_result import RunResult, read_comparison
from autoassist.compare_verdict import reference_budget
from autoassist.oracle_command import OracleCommand
from autoassist.remembered import COMMAND_FILE, LookAheadChoice, Remembered, code_of, is_other_code
from autoassist.roles import WorkloadSettings
from autoassist.run_command import RunCommand
from boss.train import TrainSettings
from broker.store import DATABASE
from protocol.errors import SettingError
from protocol.report import REPORT_FILE, encode_report
from protocol.settings import RunSettings
from tests.unit.autoassist.made_up import report_of
from workloads import Fingerprint, Metric

COMMAND = RunCommand(
    workload="digits", train=TrainSettings(threads=2), data=WorkloadSettings(model="resnet8"), look_ahead="on"
)
COMMON = Common("mine:1", "test_accuracy")
POLICIES = ("uniform", "random-drop", "infobatch", "autoassist")


def plan_of(**changes: object) -> list[PlannedRun]:
    given = {"n": 500, "epochs": 4, "policies": POLICIES, "budgets": (1.0, 0.6), "seeds": (1, 2), "options": ()}
    return make_plan(COMMAND, **{**given, **changes})  # type: ignore[arg-type]


def put(run: PlannedRun, out: Path, status: str = "finished", **report: object) -> Path:
    """As if it had been run."""
    run_dir = out / run.name
    run_dir.mkdir(parents=True)
    (run_dir / COMMAND_FILE).write_bytes(Remembered.of(run.command).encoded())
    (run_dir / DATABASE).write_bytes(b"")
    made_up = report_of(run.settings.policy, status=status, passes=run.passes, **report)  # type: ignore[arg-type]
    (run_dir / REPORT_FILE).write_bytes(encode_report(made_up))
    return run_dir


def test_every_policy_meets_every_budget_and_seed_and_random_drop_comes_after_its_pair() -> None:
    plan = plan_of()
    assert len(plan) == len({run.name for run in plan}) == 4 * 2 * 2
    assert [run.settings.policy for run in plan[:4]] == ["uniform", "infobatch", "autoassist", "random-drop"]
    assert {run.settings.seed for run in plan[:8]} == {1}
    assert [run.passes for run in plan[:8]] == [2000] * 4 + [1200] * 4
    assert plan[7].pair == plan[6].name and not plan[6].pair


def test_budgets_are_boss_instances_so_that_schedules_run_on_passes() -> None:
    run = plan_of(n=1442, epochs=3, budgets=(1.0, 0.4))[-1]
    assert run.settings.boss_instances == round(0.4 * 3 * 1442) and run.settings.epochs is None


def test_without_the_default_random_drop_takes_the_rate_of_the_first_that_selects() -> None:
    plan = plan_of(policies=("uniform", "random-drop", "rho", "infobatch"), options=("rho:irreducible_losses=x.npy",))
    assert plan[2].settings.policy == "random-drop" and plan[2].pair == "rho-1-seed1"


@pytest.mark.parametrize(
    ("policies", "options"),
    [
        (("uniform", "random-drop", "infobatch"), ()),
        (("uniform", "random-drop", "autoassist"), ("autoassist:warmup-epochs=1", "autoassist:anneal_share=0")),
        (("uniform", "random-drop", "autoassist"), ()),
    ],
)
def test_random_drop_drops_where_its_pair_does(policies: tuple[str, ...], options: tuple[str, ...]) -> None:
    runs = {run.name: run.settings for run in plan_of(policies=policies, options=options)}
    pairs = [(run.settings, runs[run.pair]) for run in plan_of(policies=policies, options=options) if run.pair]
    assert pairs and all((a.warmup, a.anneal_share) == (b.warmup, b.anneal_share) for a, b in pairs)


def test_random_drop_s_own_options_go_before_those_of_its_pair() -> None:
    options = ("random-drop:warmup_epochs=2", "infobatch:anneal_share=0.25")
    plan = plan_of(policies=("uniform", "random-drop", "infobatch"), options=options)
    run = next(run.settings for run in plan if run.pair)
    assert (run.warmup, run.anneal_share) == (2.0, 0.25)


def test_a_policy_may_have_fewer_budgets_than_uniform() -> None:
    plan = plan_of(only=("infobatch=0.6", "random-drop=1"))
    names = [run.name for run in plan if run.settings.seed == 1]
    assert names == [
        *("uniform-1-seed1", "autoassist-1-seed1", "random-drop-1-seed1"),
        *("uniform-0.6-seed1", "infobatch-0.6-seed1", "autoassist-0.6-seed1"),
    ]


def test_the_oracle_is_run_by_a_command_of_its_own_and_pairs_with_nothing(tmp_path: Path) -> None:
    plan = plan_of(policies=("uniform", "oracle", "random-drop", "infobatch"), seeds=(1,), budgets=(1.0,))
    assert {run.pair for run in plan} == {"", "infobatch-1-seed1"}
    words = plan[1].arguments(tmp_path, resume=False)
    assert (words[0], plan[1].settings.policy) == ("compare-oracle", "oracle")
    assert tyro.cli(OracleCommand, args=words[1:]).run == plan[1].settings


def test_random_drop_keeps_at_the_rate_of_its_pair() -> None:
    """2,000 passes, 500 of the warm-up and 250 of the anneal whole; 2,500 offered, so 1,250 pass of 1,750."""
    run = plan_of(options=("warmup_epochs=1",))[3].paired(
        report_of("autoassist", passes=2000, kept_fraction=0.8, n=500)
    )
    assert run.settings.drop_rate == pytest.approx(1 - 1250 / 1750, abs=1e-4)
    other = plan_of()[2]
    assert other.paired(report_of("autoassist")) is other


def test_what_no_assistant_scores_in_time_passes_whole_in_the_run_of_random_drop_as_in_that_of_its_pair() -> None:
    """A tenth of 2,500 offered: 1,000 pass of 1,500 that are left between warm-up and anneal."""
    report = report_of("autoassist", passes=2000, kept_fraction=0.8, n=500)
    selection = msgspec.structs.replace(report.selection, offered=2500, passed_whole={"patience": 200, "urgent": 50})
    run = plan_of(options=("warmup_epochs=1",))[3].paired(msgspec.structs.replace(report, selection=selection))
    assert run.settings.drop_rate == pytest.approx(1 - 1000 / 1500, abs=1e-4)


def test_the_words_of_a_run_give_its_command_back(tmp_path: Path) -> None:
    run = plan_of(options=("batch_size=32", "anneal_share=0.3333333333333333"))[3].paired(
        report_of("autoassist", passes=2000, kept_fraction=0.8)
    )
    words = run.arguments(tmp_path, resume=False)
    parsed = tyro.cli(RunCommand, args=words[1:])
    assert parsed == dataclasses.replace(run.command, run_dir=str(tmp_path), live=False)
    assert run.arguments(tmp_path, resume=True) == ["run", "--resume", str(tmp_path), "--no-live"]


def test_the_runs_of_a_comparison_are_told_whether_to_look_ahead(tmp_path: Path) -> None:
    command = CompareCommand(workload="digits", seeds=1)
    for look_ahead in get_args(LookAheadChoice):
        for run in dataclasses.replace(command, look_ahead=look_ahead)._plan(500):
            words = run.arguments(tmp_path, resume=False)
            assert tyro.cli(RunCommand, args=words[1:]).look_ahead == look_ahead


def test_whether_a_run_looked_ahead_matters_for_the_policy_that_does(tmp_path: Path) -> None:
    """The runs of all other policies are the same runs."""
    plan = [run for run in plan_of() if run.settings.policy != "random-drop"]
    for run in plan:
        put(run, tmp_path)
    for run in plan:
        other = dataclasses.replace(run, command=dataclasses.replace(run.command, look_ahead="off"))
        if run.settings.policy != "autoassist":
            assert look(other, tmp_path / run.name, COMMON).report is not None
            continue
        with pytest.raises(SettingError, match=r"with other settings \(not looking ahead here: --look-ahead on\)"):
            look(other, tmp_path / run.name, COMMON)


def test_settings_are_for_all_or_for_one_policy_which_go_before() -> None:
    options = ("autoassist:floor=0.2", "floor=0.3", "noise-guard=on", "gate=false")
    fixed = {"seed": 3, "boss_instances": 9}
    ours = settings_of("autoassist", options, {"policy": "autoassist", **fixed})
    assert ours == RunSettings(policy="autoassist", floor=0.2, noise_guard="on", gate=False, seed=3, boss_instances=9)
    assert settings_of("uniform", options, {"policy": "uniform", **fixed}).floor == 0.3


def test_a_finished_run_with_the_same_settings_is_not_run_again(tmp_path: Path) -> None:
    run = plan_of()[0]
    put(run, tmp_path)
    found = look(run, tmp_path / run.name, COMMON).report
    assert found is not None and found.status == "finished"


def test_a_stopped_run_goes_on_and_a_failed_one_begins_again(tmp_path: Path) -> None:
    stopped, failed = plan_of()[:2]
    assert not look(stopped, tmp_path / stopped.name, COMMON).can_resume
    put(stopped, tmp_path, status="stopped")
    found = look(stopped, tmp_path / stopped.name, COMMON)
    assert found.report is None and found.can_resume and found.passes_before == stopped.passes
    put(failed, tmp_path, status="failed")
    found = look(failed, tmp_path / failed.name, COMMON)
    assert found.report is None and not found.can_resume


@pytest.mark.parametrize(
    "changes, named",
    [
        ({"epochs": 5}, "boss_instances: 2500 here, 2000 there"),
        ({"options": ("floor=0.2",)}, "floor: 0.2 here, None there"),
        ({"n": 600}, "boss_instances: 2400 here, 2000 there"),
    ],
)
def test_a_directory_with_other_settings_is_refused_by_what_differs(
    changes: dict[str, object], named: str, tmp_path: Path
) -> None:
    put(plan_of()[0], tmp_path)
    with pytest.raises(
        SettingError, match=rf"holds uniform-1-seed1 with other settings \({named}\); give another --out"
    ):
        finished_before(plan_of(**changes), tmp_path, COMMON)


def test_a_directory_with_another_model_or_other_data_is_refused(tmp_path: Path) -> None:
    run = plan_of()[0]
    put(run, tmp_path)
    other = dataclasses.replace(run, command=dataclasses.replace(run.command, data=WorkloadSettings()))
    with pytest.raises(SettingError, match=r"with other settings \(data: "):
        look(other, tmp_path / run.name, COMMON)
    with pytest.raises(SettingError, match="was trained on mine:1, the comparison is one of mine:2"):
        look(run, tmp_path / run.name, dataclasses.replace(COMMON, dataset_id="mine:2"))


def test_a_directory_whose_runs_ended_with_another_metric_is_refused(tmp_path: Path) -> None:
    """Its direction may be another one too, and the table would compare accuracies with errors."""
    run = plan_of()[0]
    put(run, tmp_path)
    named = r"ended with test_accuracy, the comparison is one by test_error \(evaluate\(\) has to give one name\)"
    with pytest.raises(SettingError, match=f"{named}; give another --out"):
        look(run, tmp_path / run.name, Common("mine:1", "test_error"))


def test_a_workload_whose_file_has_changed_is_not_mixed_with_its_old_runs(tmp_path: Path) -> None:
    file = tmp_path / "task.py"
    file.write_text("RATE = 0.1\n")
    run = plan_of()[0]
    run = dataclasses.replace(run, command=dataclasses.replace(run.command, workload=f"{file}:Mine"))
    put(run, tmp_path)
    file.write_text("# a remark\nRATE  =  0.1\n")
    assert look(run, tmp_path / run.name, dataclasses.replace(COMMON, code=code_of(f"{file}:Mine"))).report is not None
    file.write_text("RATE = 0.2\n")
    with pytest.raises(SettingError, match=rf"uniform-1-seed1 was begun with another {file}, .*put it back, or give"):
        look(run, tmp_path / run.name, dataclasses.replace(COMMON, code=code_of(f"{file}:Mine")))


def test_a_workload_that_was_mended_after_a_run_of_it_had_failed_goes_on(tmp_path: Path) -> None:
    file = tmp_path / "task.py"
    file.write_text("RATE = 1e9\n")
    failed, stopped = (
        dataclasses.replace(run, command=dataclasses.replace(run.command, workload=f"{file}:Mine"))
        for run in plan_of()[:2]
    )
    put(failed, tmp_path, status="failed")
    put(stopped, tmp_path, status="stopped")
    file.write_text("RATE = 0.1\n")
    now = dataclasses.replace(COMMON, code=code_of(f"{file}:Mine"))
    assert look(failed, tmp_path / failed.name, now) == Found(None)
    with pytest.raises(SettingError, match=f"put it back, or remove {tmp_path / stopped.name}$"):
        look(stopped, tmp_path / stopped.name, now)


def test_what_a_run_was_begun_with_does_not_change_with_the_file(tmp_path: Path) -> None:
    file = tmp_path / "task.py"
    file.write_text("RATE = 0.1\n")
    begun = Remembered.of(RunCommand(workload=f"{file}:Mine"))
    (tmp_path / COMMAND_FILE).write_bytes(begun.encoded())
    file.write_text("RATE = 0.2\n")
    assert Remembered.read(tmp_path).code == begun.code != code_of(f"{file}:Mine")
    assert code_of("digits") == code_of(f"{tmp_path / 'absent.py'}:Mine") == ""
    file.write_text("TEXT = " + " + ".join(["'a'"] * 2000) + "\n")
    assert code_of(f"{file}:Mine") == "", "what cannot be taken apart is trained, and not compared"


def test_files_are_not_compared_across_versions_of_python_which_write_them_differently() -> None:
    assert is_other_code("3.11.7 abc", "3.11.7 def")
    assert not is_other_code("3.11.7 abc", "3.12.1 def") and not is_other_code("", "3.11.7 def")


def test_what_stands_in_the_place_of_a_run_and_is_none_is_named_with_what_helps(tmp_path: Path) -> None:
    run = plan_of()[0]
    remedy = "move it away or remove it, and give the same command again"
    run_dir = put(run, tmp_path)
    (run_dir / COMMAND_FILE).write_bytes((run_dir / COMMAND_FILE).read_bytes()[:50])
    with pytest.raises(SettingError, match=remedy):
        look(run, run_dir, COMMON)
    (run_dir / COMMAND_FILE).unlink()
    with pytest.raises(
        SettingError, match=rf"^{run_dir}: is no directory of a run \(command.json is missing\); {remedy}"
    ):
        look(run, run_dir, COMMON)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(SettingError, match=remedy):
        look(run, tmp_path / "file", COMMON)
    (tmp_path / "empty").mkdir()
    assert look(run, tmp_path / "empty", COMMON) == Found(None)


def test_budgets_that_differ_after_the_sixth_digit_are_refused() -> None:
    """They would share a directory."""
    with pytest.raises(SettingError, match="give six digits at most"):
        CompareCommand(workload="digits", budgets=(1.0, 0.01, 0.01000002))._require_possible()


def test_in_one_pass_a_policy_is_run_at_the_budget_at_which_it_is_judged() -> None:
    """Two may be as near to 0.6 as each other."""
    command = CompareCommand(workload="digits", budgets=(1.0, 0.7, 0.5), one_pass=True)._with_one_pass()
    assert set(command.only) == {
        f"{policy}={reference_budget((0.7, 0.5)):g}" for policy in ("random-drop", "autoassist")
    }


def test_a_setting_that_a_policy_lacks_is_asked_for_as_a_comparison_takes_it() -> None:
    with pytest.raises(SettingError, match=r"irreducible.* \(in a comparison: --set rho:NAME=VALUE\)"):
        settings_of("rho", (), {"policy": "rho"})


def test_random_drop_is_run_again_where_its_pair_kept_at_another_rate_since(tmp_path: Path) -> None:
    plan = plan_of()[:4]
    for run in plan[:3]:
        put(run, tmp_path, kept_fraction=0.8)
    put(plan[3].paired(report_of("autoassist", passes=2000, kept_fraction=0.8)), tmp_path)
    assert len(finished_before(plan, tmp_path, COMMON)) == 4
    (tmp_path / plan[2].name / REPORT_FILE).write_bytes(
        encode_report(report_of("autoassist", passes=2000, kept_fraction=0.7))
    )
    assert len(finished_before(plan, tmp_path, COMMON)) == 3


@pytest.mark.parametrize(
    "given, message",
    [
        ({"policies": ("autoassist", "random-drop")}, "policies=autoassist random-drop: add uniform"),
        ({"policies": ("uniform", "uniform")}, "policies=uniform uniform: name each of them once"),
        ({"policies": ("uniform", "random-drop")}, "random-drop takes its rate from a policy that selects"),
        ({"policies": ("uniform", "autoasist")}, "policy=autoasist: unknown policy"),
        ({"budgets": (0.6,)}, "budgets=0.6: add 1.0"),
        ({"budgets": (1.0, 1.5)}, "budgets=1.5: each must lie in"),
        ({"budgets": (1.0, float("nan"))}, "budgets=nan: each must lie in"),
        ({"budgets": (1.0, 0.001)}, "budgets=0.001: 4 passes: fewer than a step's 64"),
        ({"seeds": 0}, "seeds=0: must lie in"),
        ({"epochs": 0}, "epochs=0: must be at least 1"),
        ({"options": ("floor",)}, "set floor: give NAME=VALUE"),
        ({"options": ("florr=1",)}, "set florr=1: no setting florr; one of "),
        ({"options": ("seed=2",)}, "set seed=2: the comparison decides seed itself"),
        ({"options": ("floor=low",)}, "set floor=low: Expected `float | null`, got `str`"),
        ({"options": ("floor=7",)}, "floor=7.0: must lie in"),
        ({"options": ("infobatch:drop_rate=0.3",)}, "infobatch is none of the policies"),
        ({"options": ("batch_size=5000", "staleness_bound=500")}, "batch_size=5000: exceeds the data set's 1442"),
        ({"workload": ""}, "workload=: is missing"),
        ({"only": ("autoassist",)}, "only autoassist: give POLICY=BUDGET, or POLICY=BUDGET,BUDGET"),
        ({"only": ("autoassist=much",)}, "only autoassist=much: give POLICY=BUDGET"),
        ({"only": ("rho=0.6",)}, "only rho=0.6: rho is none of the policies uniform random-drop autoassist"),
        ({"only": ("uniform=0.6",)}, "only uniform=0.6: every saving is measured against uniform"),
        ({"only": ("autoassist=0.6,0.5",)}, "only autoassist=0.6,0.5: 0.5 is none of the budgets 1 0.8 0.6 0.4"),
        ({"only": ("autoassist=0.6",)}, "only autoassist=0.6: random-drop takes its rate from autoassist"),
        ({"policies": ("uniform", "oracle", "random-drop")}, "random-drop takes its rate from a policy that selects"),
        ({"policies": ("uniform", "oracle"), "options": ("oracle:floor=7",)}, "floor=7.0: must lie in"),
        ({"policies": ("uniform", "oracle"), "options": ("max_tokens=99",)}, "max_tokens=99: the oracle cuts by"),
    ],
)
def test_mistakes_are_refused_before_anything_is_run(given: dict[str, object], message: str, tmp_path: Path) -> None:
    command = CompareCommand(**{"workload": "digits", "out": tmp_path / "out", **given})  # type: ignore[arg-type]
    with pytest.raises(SettingError) as caught:
        command.execute()
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_the_same_command_finds_its_directory_again() -> None:
    command = CompareCommand(workload="my/task.py:Mine", data=WorkloadSettings(model="resnet8"))
    assert command._out_dir() == Path("runs/compare-task.py-Mine-resnet8")


def test_every_option_of_the_command_is_documented() -> None:
    own = {field.name for field in dataclasses.fields(CompareCommand)} - {"workload", "train", "data", "log", "options"}
    source = ast.parse(Path(compare.__file__).read_text())
    (kind,) = [node for node in ast.walk(source) if isinstance(node, ast.ClassDef) and node.name == "CompareCommand"]
    for node, after in zip(kind.body, kind.body[1:], strict=False):
        if (
            isinstance(node, ast.AnnAssign)
            and isinstance(node.target, ast.Name)
            and node.target.id in (*own, "options")
        ):
            assert isinstance(after, ast.Expr), node.target.id


def test_without_matplotlib_the_figures_are_written_and_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(compare, "can_plot", lambda: False)
    results = [
        RunResult.of(report_of(policy, seed=seed, passes=round(1000 * b), metric=b), budget=b, run_dir=policy)
        for policy, b, seed in itertools.product(("uniform", "autoassist"), (1.0, 0.6), (1, 2, 3))
    ]
    command = CompareCommand(workload="digits", policies=("uniform", "autoassist"), budgets=(0.6, 1.0))
    metric = Metric("test_accuracy", 0.1)
    comparison = command._comparison(results, Fingerprint("mine:1", 500), metric, "digits-small")
    assert "on digits (fell back to digits-small)" in comparison.verdict.sentence
    command._conclude(comparison, tmp_path)
    assert "pip install 'autoassist[plot]'" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["compare.json"]
    found = read_comparison(tmp_path)
    assert (found.budgets, found.seeds, found.uniform_gain.value) == ([1.0, 0.6], [1, 2, 3], pytest.approx(0.4))
    assert [(cell.policy, cell.budget) for cell in found.cells[:2]] == [("uniform", 1.0), ("uniform", 0.6)]


def test_one_pass_is_one_epoch_with_a_short_warm_up_and_no_second_look() -> None:
    command = CompareCommand(workload="digits", budgets=(1.0, 0.6), seeds=1, one_pass=True)._with_one_pass()
    plan = command._plan(500)
    assert {run.settings.warmup_epochs for run in plan} == {compare.ONE_PASS_WARMUP}
    assert {run.name: (run.settings.epochs, run.settings.boss_instances) for run in plan} == {
        "uniform-1-seed1": (None, 500),
        "uniform-0.6-seed1": (None, 300),
        "autoassist-0.6-seed1": (1, None),
        "random-drop-0.6-seed1": (1, None),
    }
    assert command._out_dir().name == "compare-digits-one-pass"


def test_in_one_pass_random_drop_keeps_as_many_as_its_pair_between_warm_up_and_anneal() -> None:
    plan = CompareCommand(workload="digits", seeds=1, one_pass=True)._with_one_pass()._plan(1000)
    (control,) = [run for run in plan if run.settings.policy == "random-drop"]
    rate = control.paired(report_of("autoassist", kept_fraction=0.69)).settings.drop_rate
    assert 100 + 775 * (1 - rate) + 125 == pytest.approx(690, abs=1)


@pytest.mark.parametrize(
    ("given", "words"),
    [({"epochs": 5}, "epochs=5"), ({"budgets": (1.0,)}, "budgets=1.0"), ({"only": ("rho=0.6",)}, "only=")],
)
def test_what_contradicts_one_pass_is_refused(given: dict[str, object], words: str) -> None:
    with pytest.raises(SettingError, match=words):
        CompareCommand(**{"workload": "digits", **given}, one_pass=True)._with_one_pass()  # type: ignore[arg-type]
