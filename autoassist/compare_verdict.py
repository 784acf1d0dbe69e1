"""The one sentence of a comparison: whether selection pays for this workload, as far as these runs can tell.

Every policy is judged at one budget, chosen before anything is seen: that below 1 which is nearest to 0.6. The best of
all budgets would be a best of noise. It pays where the whole interval of its saving lies above 0 **and** it is better
than random-drop beyond the spread; a saving that dropping at random has too is none of the selection. It does not pay
where not even a saving of 5 % is left in the spread, where nothing was left out, or where random-drop is better.
Policies are judged one by one, without a correction for their number: of forty that select nothing, one would be said
to pay.
"""

from __future__ import annotations

from collections.abc import Sequence

from autoassist.compare_result import NOT_JUDGED, RANDOM_DROP, Cell, Difference, Saving, Verdict
from protocol.metric import metric_form, metric_text

REFERENCE_BUDGET = 0.6
LEAST_SEEDS = 3
"""With two seeds, the bootstrap's interval is their range, and both lie on the same side of 0 every other time."""
LEAST_ROOM = 0.1
"""Share of a run's passes between warm-up and anneal, below which a policy has no room to select in."""
MOST_UNSCORED = 0.25
"""Share of what lies between warm-up and anneal that no Assistant had scored in time, from which on a policy that left
nothing out has not been tried."""
NOTHING_LEFT_OUT = 0.995
"""Kept fraction from which on nothing was selected."""

PAYS = "pays"
CANNOT_TELL = "cannot-tell"
DOES_NOT_PAY = "does-not-pay"
WORSE = "worse-than-random-drop"
ORDER = (PAYS, CANNOT_TELL, DOES_NOT_PAY, WORSE)
IN_WORDS = {
    PAYS: "{} too",
    CANNOT_TELL: "of {} it cannot be told",
    DOES_NOT_PAY: "{} does not",
    WORSE: "{} is worse than random-drop",
}


def reference_budget(budgets: Sequence[float]) -> float | None:
    """The budget at which policies are judged; None where all are the full training."""
    below = [budget for budget in budgets if budget < 1.0]
    return min(below, key=lambda b: (abs(b - REFERENCE_BUDGET), b)) if below else None


def judge(cells: Sequence[Cell], gain: Difference, *, workload: str, metric_name: str, seeds: int) -> Verdict:
    """The verdict on all policies that select; ``gain`` is uniform's, from its least budget to the full training."""
    budget = reference_budget(sorted({cell.budget for cell in cells}))
    judged = [cell for cell in cells if cell.budget == budget and cell.policy not in NOT_JUDGED]
    if budget is None or not judged:
        missing, option = "a budget below 1 was not run", "--budgets 1.0 0.6"
        if budget is not None:
            at = "" if all(cell.policy in NOT_JUDGED for cell in cells) else f" with {_percent(budget)} of the passes"
            missing = f"no policy that selects was run{at}"
            option = f"--only POLICY={budget:g}, or no --only" if at else "--policies uniform random-drop autoassist"
        sentence = f"Whether selection pays on {workload} cannot be told: {missing} ({option})."
        return Verdict(outcome=CANNOT_TELL, policy="", budget=budget, by_policy={}, sentence=sentence)
    by_policy = {cell.policy: outcome_of(cell, seeds=seeds) for cell in judged}
    first = min(judged, key=lambda c: (ORDER.index(by_policy[c.policy]), -_value(c.saving)))
    outcome = by_policy[first.policy]
    random_drop = next((c for c in cells if (c.policy, c.budget) == (RANDOM_DROP, budget)), None)
    head = _sentence(first, outcome, random_drop, gain, workload=workload, metric_name=metric_name, seeds=seeds)
    return Verdict(
        outcome=outcome,
        policy=first.policy,
        budget=budget,
        by_policy=by_policy,
        sentence=f"{head}{_others({k: v for k, v in by_policy.items() if k != first.policy}, seeds)}.",
    )


def outcome_of(cell: Cell, *, seeds: int) -> str:
    """What one policy's cell shows."""
    difference = cell.against_random_drop
    if cell.saving is None or seeds < LEAST_SEEDS or cell.room < LEAST_ROOM or _is_untried(cell):
        return CANNOT_TELL
    if difference is not None and difference.high is not None and difference.high < 0.0:
        return WORSE
    if cell.kept_fraction >= NOTHING_LEFT_OUT or _is_refuted(cell):
        return DOES_NOT_PAY
    beats_random = difference is not None and difference.low is not None and difference.low > 0.0
    return PAYS if cell.saving.is_positive and beats_random else CANNOT_TELL


def _is_untried(cell: Cell) -> bool:
    return cell.kept_fraction >= NOTHING_LEFT_OUT and cell.unscored_fraction >= MOST_UNSCORED * cell.room


def _is_refuted(cell: Cell) -> bool:
    """Whether not even 5 % are saved: the gain over uniform at the same budget lies, with its whole t interval, below
    what uniform itself would gain by so many more passes."""
    gain = cell.against_uniform
    return gain is not None and gain.high is not None and gain.high < cell.worth


def _sentence(
    cell: Cell,
    outcome: str,
    random_drop: Cell | None,
    gain: Difference,
    *,
    workload: str,
    metric_name: str,
    seeds: int,
) -> str:
    at = f"{cell.policy} with {_percent(cell.budget)} of the passes"
    reached = f"{at} reaches {metric_name} {metric_text(cell.metric)}"
    saved = f"{saving_in_words(cell.saving)} of the passes and {saving_in_words(cell.wall_saving)} of the wall time"
    spread = f"(95 % intervals over {seeds} seeds)"
    if why := _why_no_seeds_tell(cell, at, metric_name):
        return f"Whether selection pays on {workload} cannot be told: {why}"
    if seeds < LEAST_SEEDS:
        return (
            f"{'One seed' if seeds == 1 else 'Two seeds'} cannot tell whether selection pays on {workload}: {reached}, "
            f"at equal metric a saving of {saved}{_beside(random_drop)}; give --seeds {LEAST_SEEDS} or more"
        )
    if _is_untried(cell):
        return (
            f"Whether selection pays on {workload} cannot be told: {at} left nothing out, as no Assistant had scored "
            f"{cell.unscored_fraction:.0%} of what was offered in time; raise --epochs, so that runs last longer"
        )
    if outcome == PAYS:
        return (
            f"Selection pays on {workload}{_in_what(cell)}: {reached}, at equal metric a saving of {saved} {spread}, "
            f"and is better than random-drop by {difference_in_words(cell.against_random_drop, cell.metric)}"
        )
    if outcome == WORSE:
        return (
            f"Selection does not pay on {workload}: {reached}, which is worse than dropping at random by "
            f"{difference_in_words(cell.against_random_drop, cell.metric, -1.0)} (95 % interval over {seeds} seeds)"
        )
    if outcome == DOES_NOT_PAY and cell.kept_fraction >= NOTHING_LEFT_OUT:
        return f"Selection does not pay on {workload}: {at} found nothing to leave out"
    if outcome == DOES_NOT_PAY:
        return f"Selection does not pay on {workload}: {reached}, at equal metric a saving of {saved} {spread}"
    return (
        f"Whether selection pays on {workload} cannot be told: {reached}, at equal metric a saving of {saved} {spread}"
        f"{_doubt(cell, random_drop, gain)}"
    )


def _why_no_seeds_tell(cell: Cell, at: str, metric_name: str) -> str:
    """Empty where more seeds would tell."""
    if cell.room < LEAST_ROOM:
        return f"{at} has next to nothing to select from, since warm-up and end of a run pass whole; raise --epochs"
    if cell.saving is None:
        return (
            f"uniform reaches the same {metric_name} in all its runs, whatever their budget, so no saving follows from "
            f"it; raise --epochs, or mend the metric"
        )
    return ""


def _in_what(cell: Cell) -> str:
    """A saving of passes need not be one of time: reports and a machine shared with Assistants cost some."""
    assert cell.wall_saving is not None
    if cell.wall_saving.is_positive:
        return ""
    how = "not" if cell.wall_saving.is_negative else "and it cannot be told whether"
    return f" in Boss passes, {how} in wall time here"


def _doubt(cell: Cell, random_drop: Cell | None, gain: Difference) -> str:
    """Why it cannot be told, to come after the saving."""
    assert cell.saving is not None
    if not cell.saving.is_positive and not (gain.is_distinguishable and gain.value > 0.0):
        return (
            f", which says little where uniform itself gains nothing beyond the spread from its least budget to the "
            f"full training ({difference_in_words(gain, cell.metric)}); fewer --epochs, or more seeds, tell more"
        )
    if not cell.saving.is_positive:
        return ", and the spread allows for either; more seeds tell more"
    if random_drop is None:
        return f", but random-drop was not run beside it (--policies uniform random-drop {cell.policy})"
    return f", but it is not distinguishable from random-drop{_beside(random_drop)}; more seeds tell more"


def _beside(random_drop: Cell | None) -> str:
    if random_drop is None or random_drop.saving is None:
        return ""
    value = "none" if random_drop.saving.value is None else _percent(random_drop.saving.value)
    return f", random-drop {value}"


def _others(outcomes: dict[str, str], seeds: int) -> str:
    """What was found of the other policies, as the end of the sentence."""
    if not outcomes or seeds < LEAST_SEEDS:
        return ""
    parts = []
    for outcome in ORDER:
        names = [name for name, found in outcomes.items() if found == outcome]
        if names:
            parts.append(IN_WORDS[outcome].format(" and ".join(names)))
    return "; " + ", ".join(parts)


def saving_in_words(saving: Saving | None) -> str:
    """``38 % (30 … 45 %)``; ``none`` where uniform's curve never crosses; ``at least`` where the metric is above it."""
    if saving is None:
        return "-"
    value = "none" if saving.value is None else _percent(saving.value)
    text = f"at least {value}" if saving.at_least else value
    if not saving.has_interval:
        return text
    low, high = ("none" if end is None else f"{100 * end:.0f}" for end in (saving.low, saving.high))
    return f"{text} ({low} … {high}{'' if saving.high is None else ' %'})"


def difference_in_words(difference: Difference | None, metric: float, sign: float = 1.0) -> str:
    """``0.0031 (0.0012 … 0.0050)``, of differences of such a ``metric``."""
    if difference is None:
        return "-"
    form = metric_form(metric)
    text = f"{sign * difference.value:{form}}"
    if difference.low is None or difference.high is None:
        return text
    low, high = sorted((sign * difference.low, sign * difference.high))
    return f"{text} ({low:{form}} … {high:{form}})"


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %"


def _value(saving: Saving | None) -> float:
    return saving.value if saving is not None and saving.value is not None else float("-inf")
