"""Why a run has left out little or nothing, in one sentence, and what to change."""

from __future__ import annotations

from protocol.report import AssistantReport, Report

MUCH_KEPT = 0.9
"""Share of the offered from which on it is said why."""
LEAST_SHARE = 0.005
"""Of the offered, below which a cause is not worth a word."""
UNSCORED = ("no_assistant", "urgent", "patience")


def why_whole(report: Report) -> str:
    """What was left out is little because …; "" where it is not little, or was not meant to be more."""
    selection = report.selection
    if report.policy == "uniform" or not selection.offered or selection.kept < MUCH_KEPT * selection.offered:
        return ""
    counts = dict(selection.passed_whole)
    counts["unscored"] = sum(counts.pop(cause, 0) for cause in UNSCORED)
    shares = {cause: count / selection.offered for cause, count in counts.items()}
    shares = {cause: share for cause, share in shares.items() if share >= LEAST_SHARE and cause in REMEDIES}
    if not shares:
        return ""
    causes = sorted(shares, key=lambda cause: -shares[cause])
    told = [f"{shares[cause]:.1%} {_words(report, cause)}" for cause in causes]
    return f"Of what was offered, {_listed(told)}: {_remedy(report, causes[0])}."


def unscored_fraction(report: Report) -> float:
    """Share of the offered that passed whole as no Assistant had scored it in time."""
    counts, offered = report.selection.passed_whole, report.selection.offered
    return sum(counts.get(cause, 0) for cause in UNSCORED) / offered if offered else 0.0


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _words(report: Report, cause: str) -> str:
    if cause == "gate" and not report.settings.get("gate", True):
        return "passed as the policy left nothing out of it"
    if cause == "unscored" and not report.assistants:
        return "passed unfiltered as no Assistant had joined"
    return WORDS[cause]


WORDS = {
    "warmup": "came in the warm-up",
    "anneal": "came in the anneal at the end",
    "gate": "passed while the Assistant's gate stood closed (no clear lift)",
    "unscored": "passed unfiltered as no Assistant had scored them in time",
    "stale": "passed when their selection had become too stale",
}
REMEDIES = {
    "warmup": "{longer}, or shorten the warm-up with --warmup-epochs",
    "anneal": "{longer}, or shorten the anneal with --anneal-share",
    "gate": "{longer}, so that there is more to learn from; where no lift comes, there is nothing to leave out",
    "unscored": "{help}",
    "stale": "add an Assistant, or raise --staleness-bound",
}


def _remedy(report: Report, cause: str) -> str:
    longer = "train for longer (--boss-instances)" if report.boss_instances_budget else "train for more --epochs"
    return REMEDIES[cause].format(longer=longer, help=_help(report, longer))


def _help(report: Report, longer: str) -> str:
    """Against what nobody had scored: another Assistant helps where one is too slow, not where one came too late."""
    if not report.assistants:
        return "start one (autoassist assistant --broker …)"
    # Figures come with the Goodbye, so before the end nobody has any.
    if report.status != "running" and all(one.starts and not one.figures for one in report.assistants):
        return _ended_early(len(report.assistants))
    if not any(_has_begun(one) for one in report.assistants):
        return f"the run was over before its Assistant had begun; start it before the Boss, or {longer}"
    counts = report.selection.passed_whole
    if 2 * counts.get("no_assistant", 0) > sum(counts.get(cause, 0) for cause in UNSCORED):
        return (
            f"most of what was not scored came while none was there or free; start your Assistant before the Boss, or "
            f"{longer}, and if it was there all along, add another"
        )
    return f"add an Assistant, or {longer}"


def _ended_early(assistants: int) -> str:
    """No other helps before it is known why. The end may have come too soon for a Goodbye; the log tells that too."""
    who, logs = ("it", "its log says") if assistants == 1 else ("they", "their logs say")
    return (
        f"no Assistant has said Goodbye, so {who} most likely ended before the run did; {logs} why "
        f"(autoassist run keeps logs in RUN_DIR/logs)"
    )


def _has_begun(one: AssistantReport) -> bool:
    """Whether it has had a window, whatever became of it."""
    missed = one.selections_late + one.selections_stale + one.selections_refused + one.leases_expired
    return one.windows + missed > 0
