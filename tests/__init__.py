"""A test process among others has a core of its own.

What computes networks starts as many threads as it sees cores, and they wait busily: two processes with all cores each take a
quarter longer than with one each. The fixture `all_cores` is for a test that needs more.
"""

import os

CORES = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()

if CORES and (worker := os.environ.get("PYTEST_XDIST_WORKER", "").removeprefix("gw")):
    os.sched_setaffinity(0, {sorted(CORES)[int(worker) % len(CORES)]})
