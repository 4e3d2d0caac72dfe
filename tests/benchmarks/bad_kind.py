"""A kind of input for the fuzzer whose cases are what a process must be guarded from; light, as each process imports it."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from random import Random

from cases import Case, Kind, Run, Seed


class Bad(Kind):
    """Case 0 is fine."""

    name = "bad"
    suffixes = frozenset({".txt"})

    def make_seeds(self, folder: Path) -> None:
        (folder / "a.txt").write_text("a", encoding="ascii")

    def damage(self, random: Random, seed: Seed, other: Seed) -> tuple[bytes, str, str]:
        del random, other
        return seed.data, "as it is", seed.suffix

    def run(self, path: Path, case: Case) -> Run:
        run = Run()
        if case.number == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        elif case.number == 2:
            time.sleep(600)
        elif case.number == 3:
            os.urandom(250 << 20)
        elif case.number == 4:
            (path.parent / "out" / "a.part").mkdir(parents=True)
            (path.parent / "out" / "a.part" / "journal").touch()
            run.check_leftovers(path.parent / "out", [], resumable=True)
        return run

    def judge(self, path: Path, case: Case, run: Run) -> str | None:
        raise NotImplementedError
