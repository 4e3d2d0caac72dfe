"""Which convs are computed in 8 bits: those that save the most time for the least error, as long as the sum stays in budget."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping

from sr_deploy.export.int8.speed import TimeEstimate

SLACKS = (1.6, 1.25, 1.0, 0.8, 0.65, 0.5, 0.35, 0.2, 0.1)
"""Budgets of the sum of errors that are tried, in parts of that of the whole: errors of several convs rarely add up exactly."""


def choose(
    errors: Mapping[str, float], budget: float, timing: TimeEstimate, joint: Callable[[frozenset[str]], float]
) -> tuple[frozenset[str], float]:
    """The convs, and their error together; none where nothing that saves time holds the budget.

    errors: of each conv alone, as mean squares. joint: measures those of several together.
    """
    tried: dict[frozenset[str], float] = {}
    best: tuple[frozenset[str], float] = (frozenset(), 0.0)
    for chosen in _candidates(errors, budget, timing):
        if not chosen or chosen in tried or timing.saved(chosen) <= timing.saved(best[0]):
            continue
        tried[chosen] = joint(chosen)
        if tried[chosen] <= budget:
            best = (chosen, tried[chosen])
    return best


def _candidates(errors: Mapping[str, float], budget: float, timing: TimeEstimate) -> Iterator[frozenset[str]]:
    yield frozenset(errors)
    for slack in SLACKS:
        yield greedy(errors, budget * slack, timing)


def greedy(errors: Mapping[str, float], budget: float, timing: TimeEstimate) -> frozenset[str]:
    """Convs whose errors add up to no more than the budget: again and again what saves the most for its error."""
    chosen: frozenset[str] = frozenset()
    groups = _groups(errors, timing)
    while True:
        left = budget - sum(errors[name] for name in chosen)
        now = timing.saved(chosen)
        best, most = chosen, 0.0
        for group in groups:
            added = group - chosen
            cost = sum(errors[name] for name in added)
            if not added or cost > left:
                continue
            rate = (timing.saved(chosen | added) - now) / max(cost, 1e-12)
            if rate > most:
                best, most = chosen | added, rate
        if best == chosen:
            return chosen
        chosen = best


def _groups(errors: Mapping[str, float], timing: TimeEstimate) -> list[frozenset[str]]:
    """Each conv, and each with those behind it, between which no value leaves 8 bits."""
    groups = {frozenset([name]) for name in errors}
    for name in errors:
        run: Collection[str] = [name]
        while followers := [after for after in timing.neighbors(list(run)[-1]) if after in errors and after not in run]:
            run = [*run, *followers]
            groups.add(frozenset(run))
    return sorted(groups, key=sorted)
