"""A process that runs one case after the other, so that runtimes start once; its parent bounds time and memory."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

from cases import LOG, Case, Kind, Limits, Outcome, Record, Run, Seed, case_of

Kinds = Mapping[str, tuple[Kind, Sequence[Seed]]]
"""By name, a kind with its seeds."""

MEGABYTE = 2**20
JUDGE_SECONDS = 600.0
"""For the readers that we compare with: their hangs are none of ours."""

START_SECONDS = 300.0
LOOK_SECONDS = 0.05


class DeathError(Exception):
    """The worker ended in the middle of a case; the message says how."""


class Worker:
    """The parent's side: a process in a folder of its own, started anew whenever it died or grew."""

    def __init__(self, folder: Path, kinds: Kinds, seed: int, limits: Limits) -> None:
        self._given = (folder, kinds, seed, limits)
        self._folder, self._kinds, self._seed, self._limits = folder, kinds, seed, limits
        self._start()

    def _start(self) -> None:
        context = get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, *self._given), daemon=True)
        self._process.start()
        theirs.close()

    def run(self, kind: str, number: int) -> Record:
        """The record of a case; a hang or a death is a find once it comes twice, in a process that ran nothing before."""
        try:
            record = self._run(kind, number)
        except DeathError:
            started = time.monotonic()
            try:
                record = self._run(kind, number)
            except DeathError as exc:
                case = case_of(*self._kinds[kind], self._seed, number)
                log = self._folder / "case" / LOG
                commands = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
                record = Record.of(case, "refused", Run(find=str(exc), commands=commands), time.monotonic() - started, 0)
        if record.megabytes > 0.8 * self._limits.megabytes:
            self.close()
            self._start()
        return record

    def _run(self, kind: str, number: int) -> Record:
        try:
            self._pipe.send((kind, number))
            self._wait(START_SECONDS, "it did not start")
            self._pipe.recv()
            self._wait(self._limits.seconds, f"over {self._limits.seconds:.0f} s")
            self._pipe.recv()
            self._wait(JUDGE_SECONDS, "")
            record = self._pipe.recv()
        except (EOFError, ConnectionError) as exc:
            self._process.join()
            code = self._process.exitcode
            self._start()
            raise DeathError(f"the process ended with {code}") from exc
        assert isinstance(record, Record)
        return record

    def _wait(self, seconds: float, find: str) -> None:
        """Until there is something to read; ends the process after that time, or where it takes twice the memory."""
        began = _spent(self._process.pid)
        while not self._pipe.poll(LOOK_SECONDS):
            grown = _resident_megabytes(self._process.pid) > 2 * self._limits.megabytes
            if grown or _between(began, _spent(self._process.pid)) > seconds:
                self.close()
                self._start()
                raise DeathError(f"over {2 * self._limits.megabytes} MB" if grown else find or "the judge hung")

    def close(self) -> None:
        self._process.kill()
        self._process.join()
        self._pipe.close()


def serve(pipe: Connection, folder: Path, kinds: Kinds, seed: int, limits: Limits) -> None:
    """Answer each (kind, number) with "begun", "ran" and its Record."""
    _quiet(folder)
    while True:
        name, number = pipe.recv()
        kind, seeds = kinds[name]
        case = case_of(kind, seeds, seed, number)
        path = lay_out(case, folder / "case")
        os.chdir(path.parent)
        _forget_peak()
        pipe.send("begun")
        started = time.monotonic()
        run = kind.run(path, case)
        seconds, peak = time.monotonic() - started, _peak_megabytes()
        pipe.send("ran")
        if peak > limits.megabytes:
            run.note(f"over {limits.megabytes} MB")
        pipe.send(Record.of(case, judged(kind, path, case, run), run, seconds, peak))


def judged(kind: Kind, path: Path, case: Case, run: Run) -> Outcome:
    """What came of a case; what the judge finds goes into the run."""
    if not run.accepted:
        return "refused"
    try:
        said = kind.judge(path, case, run)
    except Exception as exc:
        run.note(f"the judge failed: {type(exc).__name__}", traceback.format_exc())
        return "undecided"
    if said:
        run.note(said)
    return "undecided" if said is None else "accepted"


def lay_out(case: Case, folder: Path) -> Path:
    """The case's file, alone in the folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    path = folder / case.name
    path.write_bytes(case.data)
    return path


def _quiet(folder: Path) -> None:
    """What libraries print goes into a file, caches into the folder; no network is asked."""
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    printed = (folder / "printed.txt").open("w", encoding="utf-8", errors="backslashreplace", buffering=1)
    os.dup2(printed.fileno(), 1)
    os.dup2(printed.fileno(), 2)
    sys.stderr = printed


def _forget_peak() -> None:
    """Linux counts the peak of resident memory from here on."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _peak_megabytes() -> int:
    """Of resident memory, since it was forgotten; `getrusage` would tell that of the process which started this one."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) // 1024


def _spent(pid: int | None) -> tuple[float, float, float]:
    """Seconds: of the clock, on processors, and waiting for one; of all threads."""
    running = waiting = 0
    for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with contextlib.suppress(OSError):
            ran, waited, _ = path.read_text(encoding="ascii").split()
            running, waiting = running + int(ran), waiting + int(waited)
    return time.monotonic(), running / 1e9, waiting / 1e9


def _between(began: tuple[float, float, float], now: tuple[float, float, float]) -> float:
    """Seconds that a machine without other work would have taken: on processors, or asleep."""
    clock, running, waiting = (new - old for old, new in zip(began, now, strict=True))
    return max(running, clock - waiting)


def _resident_megabytes(pid: int | None) -> int:
    """0 where the process is gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    except (OSError, IndexError):
        return 0
    return pages * resource.getpagesize() // MEGABYTE
