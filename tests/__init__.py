"""A test process among others has a core of its own.

What computes networks starts as many threads as it sees cores, and they wait busily: two processes with all cores each take a
quarter longer than with one each. The fixture `all_cores` is for a test that needs more.
"""

import os
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

CORES = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()

if CORES and (worker := os.environ.get("PYTEST_XDIST_WORKER", "").removeprefix("gw")):
    os.sched_setaffinity(0, {sorted(CORES)[int(worker) % len(CORES)]})


def short_and_long(cases: Iterable[Any], short: Collection[Any]) -> list[Any]:
    """Cases of a test: those in `short` for every run of the tests, the others for long ones."""

    def long(case: Any) -> Any:
        return pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.long)

    return [case if case in short else long(case) for case in cases]


@contextmanager
def on_all_cores() -> Iterator[None]:
    """What is started within has all cores, as in an ordinary process."""
    before = os.sched_getaffinity(0) if CORES else set()
    if CORES:
        os.sched_setaffinity(0, CORES)
    try:
        yield
    finally:
        if CORES:
            os.sched_setaffinity(0, before)
