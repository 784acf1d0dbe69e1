"""What went wrong in a run and how it got over it, in words: from the report's figures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from autoassist.report.sources import Sources
from protocol.report import AssistantReport, Report

MUCH_WAIT = 0.02
"""Share of the Boss's time from which its exposed wait is named, as by the alert BossWaited."""
WHY_UNFILTERED = {
    "uniform": "the policy passes everything",
    "no_assistant": "no Assistant was connected and at work",
    "urgent": "few batches were left at the Boss, it would have waited soon",
    "patience": "the Boss asked for more and no selection came within --patience-s",
}
"""Reasons for which windows pass whole."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Something that is not as it should be, how often, and what it meant."""

    what: str
    times: str
    meaning: str


def faults(found: Sources) -> list[Fault]:
    """All that were met, the costliest first; none where everything went well."""
    report = found.report
    if report is None:
        return []
    met = [*_of_run(found, report), *_of_boss(report)]
    for assistant in report.assistants:
        met += _of_assistant(assistant)
    return [*met, *_of_input(report)]


def _of_run(found: Sources, report: Report) -> Iterator[Fault]:
    if report.status == "failed":
        yield Fault(what="The run failed", times="1", meaning="the roles' last words stand below, under what they said")
    if found.run is not None and found.run.generation:
        meaning = "what had come after it was trained again; the figures count it once"
        yield Fault(what="Taken back to a checkpoint", times=str(found.run.generation), meaning=meaning)
    for peer in found.peers:
        starts = int(peer.counters.get("starts", 0))
        if peer.role == "boss" and starts > 1:
            meaning = "it was killed or stopped, and went on from its checkpoint"
            yield Fault(what=f"{peer.name} joined anew", times=str(starts - 1), meaning=meaning)


def _of_boss(report: Report) -> Iterator[Fault]:
    boss, losses = report.boss, report.loss_reports
    if boss.exposed_wait_fraction > MUCH_WAIT:
        share = f"{boss.exposed_wait_fraction:.1%}"
        meaning = f"{boss.exposed_wait_s:.1f} s with nothing to train on: the broker plans more slowly than it trains"
        yield Fault(what="The Boss waited", times=share, meaning=meaning)
    if boss.off_plan_steps:
        meaning = f"no broker answered; {boss.off_plan_instances} instances were trained unfiltered, as extra passes"
        yield Fault(what="Steps off the plan", times=str(boss.off_plan_steps), meaning=meaning)
    if boss.gradients_dropped:
        meaning = "their gradient was NaN or infinite, and nothing was trained by it"
        yield Fault(what="Steps without a finite gradient", times=str(boss.gradients_dropped), meaning=meaning)
    if losses.values_not_finite:
        meaning = "NaN or infinite; nobody learned from them"
        yield Fault(what="Losses that were not finite", times=str(losses.values_not_finite), meaning=meaning)
    if losses.values_dropped:
        meaning = "the Boss's ring of reports was full: the broker or the line was slower than the Boss"
        yield Fault(what="Losses that never came", times=str(losses.values_dropped), meaning=meaning)
    if report.status != "running" and losses.sent > losses.delivered:
        meaning = "the Boss said that it had sent them, and the broker ended before they came"
        yield Fault(what="Reports that were lost", times=str(losses.sent - losses.delivered), meaning=meaning)
    if report.selection.reopened_windows:
        meaning = "their selections grew too stale in stock; what was untrained of them passed whole"
        yield Fault(what="Windows reopened", times=str(report.selection.reopened_windows), meaning=meaning)


def _of_assistant(assistant: AssistantReport) -> Iterator[Fault]:
    known = (
        ("joined anew", assistant.starts - 1, "it was killed, fenced or stopped, and went on from what it had saved"),
        ("held windows too long", assistant.leases_expired, "longer than --lease-s; others took them, or nobody"),
        ("selected too late", assistant.selections_late, "the lease was no longer its own"),
        ("selected too stale", assistant.selections_stale, "by losses older than the bound; offered again"),
        ("selected what cannot be right", assistant.selections_refused, "refused, and the window offered again"),
        ("missed loss records", assistant.records_dropped, "it lagged too far behind to be sent them"),
    )
    for what, times, meaning in known:
        if times > 0:
            yield Fault(what=f"{assistant.name} {what}", times=str(times), meaning=meaning)


def _of_input(report: Report) -> Iterator[Fault]:
    for cause, times in report.refused_input.items():
        meaning = "sent twice after a lost line, taken once" if cause == "duplicate" else "and ignored"
        yield Fault(what=f"Input refused: {cause}", times=str(times), meaning=meaning)
    for sender, times in report.refused_input_from.items():
        yield Fault(what=f"Input refused from {sender}", times=str(times), meaning="of the above")
