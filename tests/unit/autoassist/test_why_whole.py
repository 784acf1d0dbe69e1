"""Why a run has left out little or nothing, as its summary says it."""

from __future__ import annotations

import pytest

from autoassist.summary import verdict
from autoassist.why_whole import why_whole
from protocol.report import Report
from tests.unit.autoassist.test_views import changed

ASSISTANT = {
    **{"name": "assistant-0", "starts": 1, "offered": 0, "kept": 0, "selections_late": 0, "selections_stale": 0},
    **{"selections_refused": 0, "leases_expired": 0, "records_dropped": 0, "figures": {"lift": 0.0}},
}

NOTHING_LEFT_OUT = {"kept": 200, "kept_fraction": 1.0, "passed_whole": {"urgent": 150, "patience": 50}}
"""As nobody had scored it."""


def kept(
    share: float, causes: dict[str, int], *, windows: int | None = None, expired: int = 0, **fields: object
) -> Report:
    """Of 200 that were offered; ``windows`` is what the Assistant has judged, None where there was none."""
    selection = {"kept": int(200 * share), "kept_fraction": share, "passed_whole": causes}
    assistants = [] if windows is None else [ASSISTANT | {"windows": windows, "leases_expired": expired}]
    return changed(selection=selection, boss={"instances": int(200 * share)}, assistants=assistants, **fields)


def test_a_run_without_an_assistant_says_so_and_how_to_start_one() -> None:
    text = verdict(kept(1.0, {"warmup": 30, "no_assistant": 100, "urgent": 50, "anneal": 20}))
    assert text == (
        "Nothing was left out. Of what was offered, 75.0% passed unfiltered as no Assistant had joined, 15.0% came in "
        "the warm-up and 10.0% came in the anneal at the end: start one (autoassist assistant --broker …)."
    )


def test_a_run_that_was_over_before_its_assistant_had_begun_asks_for_more_epochs() -> None:
    text = why_whole(kept(1.0, {"no_assistant": 200}, windows=0))
    assert "as no Assistant had scored them in time: the run was over before its Assistant had begun" in text
    assert text.endswith("; start it before the Boss, or train for more --epochs.")
    budget = {"epochs": 0, "boss_instances_budget": 200}
    assert why_whole(kept(1.0, {"no_assistant": 200}, windows=0, **budget)).endswith("(--boss-instances).")


@pytest.mark.parametrize(("windows", "starts"), [(0, 1), (0, 3), (2, 3)])
def test_an_assistant_that_ended_before_the_run_did_is_not_said_to_have_come_too_late(
    windows: int, starts: int
) -> None:
    """Each that says Goodbye has figures. One that raises in its first windows has passed some of the warm-up."""
    gone = ASSISTANT | {"figures": {}, "windows": windows, "starts": starts}
    text = why_whole(changed(selection=NOTHING_LEFT_OUT, assistants=[gone]))
    assert text.endswith(
        ": no Assistant has said Goodbye, so it most likely ended before the run did; its log says why (autoassist run "
        "keeps logs in RUN_DIR/logs)."
    )
    assert "they most likely ended" in why_whole(changed(selection=NOTHING_LEFT_OUT, assistants=[gone, gone]))


def test_while_one_has_said_goodbye_or_the_run_goes_on_no_assistant_is_taken_for_gone() -> None:
    gone, there = ASSISTANT | {"figures": {}, "windows": 5}, ASSISTANT | {"windows": 5}
    for report in (
        changed(selection=NOTHING_LEFT_OUT, assistants=[gone, there]),
        changed(selection=NOTHING_LEFT_OUT, assistants=[gone], status="running"),
    ):
        assert why_whole(report).endswith(": add an Assistant, or train for more --epochs.")


def test_an_assistant_that_came_when_most_was_over_is_to_come_sooner_and_another_is_no_remedy_for_that() -> None:
    """It has scored a few windows; what came before it had nobody to score it."""
    causes = {"warmup": 10, "no_assistant": 140, "patience": 4, "gate": 20}
    text = why_whole(kept(0.95, causes, windows=2))
    assert text.endswith(
        ": most of what was not scored came while none was there or free; start your Assistant before the Boss, or "
        "train for more --epochs, and if it was there all along, add another."
    )


def test_an_assistant_whose_every_lease_expired_had_begun_and_was_too_slow() -> None:
    text = why_whole(kept(1.0, {"patience": 120, "no_assistant": 80}, windows=0, expired=3))
    assert text.endswith(": add an Assistant, or train for more --epochs.")


@pytest.mark.parametrize(
    ("causes", "remedy"),
    [
        ({"warmup": 150, "gate": 50}, "--warmup-epochs"),
        ({"anneal": 150, "gate": 50}, "--anneal-share"),
        ({"stale": 150, "gate": 50}, "--staleness-bound"),
        ({"gate": 150, "anneal": 50}, "there is nothing to leave out"),
        ({"patience": 80, "urgent": 70, "gate": 50}, "add an Assistant"),
    ],
)
def test_the_remedy_is_that_of_the_greatest_cause(causes: dict[str, int], remedy: str) -> None:
    text = why_whole(kept(1.0, causes, windows=5))
    assert text.startswith("Of what was offered, 75.0% ") and remedy in text.partition(": ")[2]


def test_a_rule_without_a_gate_is_not_said_to_have_one() -> None:
    report = kept(1.0, {"gate": 200}, windows=5, settings={"gate": False})
    assert "gate" not in why_whole(report) and "the policy left nothing out of it" in why_whole(report)


def test_little_is_explained_beside_what_was_saved_and_much_is_not() -> None:
    little = verdict(kept(0.95, {"gate": 150}, windows=5))
    assert "5.0% fewer" in little and "75.0% passed while the Assistant's gate stood closed" in little
    assert "--policy uniform" in little
    assert "gate" not in verdict(kept(0.5, {"gate": 80}, windows=5))


def test_a_report_of_an_earlier_version_has_no_causes() -> None:
    assert why_whole(kept(1.0, {}, windows=5)) == ""
