"""A test process among others has a core of its own.

What computes networks starts as many threads as it sees cores, and they wait busily: two processes with all cores each take a
quarter longer than with one each. The fixture `all_cores` is for a test that needs more.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

CORES = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()

if CORES and (worker := os.environ.get("PYTEST_XDIST_WORKER", "").removeprefix("gw")):
    os.sched_setaffinity(0, {sorted(CORES)[int(worker) % len(CORES)]})


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
