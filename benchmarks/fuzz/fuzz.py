"""Damage files by the thousand, give them to sr-deploy, and hold what it accepts against readers that are not its own.

    python benchmarks/fuzz/fuzz.py -o FOLDER [--kind picture]... [--max-cases 10000] [--seconds 3600] [--seeds DIR]...
        [--seed 0] [--workers 1]

A find is a traceback, an internal error, a crash, a hang, too much memory, something left behind, or a result that another
reader does not bear out. FOLDER/state.jsonl has a line for each case: the same command goes on behind them. FOLDER/finds has
the file of each find, with its commands and what they said. The exit code is 1 if there are any.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from cases import Kind, Limits, Record, Seed, case_of
from kinds import KINDS
from worker import Kinds, Worker


class Campaign:
    """What a folder holds of the runs so far. Raises: SystemExit for a folder that was begun with another seed."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.seed = folder, seed
        self.records: list[Record] = []
        self._lock = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)
        self._state = folder / "state.jsonl"
        if self._state.exists():
            first, *lines = self._state.read_text(encoding="utf-8").splitlines()
            if json.loads(first) != {"seed": seed}:
                raise SystemExit(f"{folder} was begun with {first}; give that seed, or another folder")
            self.records = [Record(**json.loads(line)) for line in lines if _is_whole(line)]
            with self._state.open("a", encoding="utf-8") as state:
                state.write("\n" * (bool(lines) and not _is_whole(lines[-1])))
        else:
            self._state.write_text(json.dumps({"seed": seed}) + "\n", encoding="utf-8")

    def keep(self, record: Record, kind: Kind, seeds: Sequence[Seed]) -> None:
        """Write down what came of a case, and the case itself where it is a find."""
        with self._lock:
            self.records.append(record)
            with self._state.open("a", encoding="utf-8") as state:
                state.write(json.dumps(asdict(record)) + "\n")
        if record.find:
            case = case_of(kind, seeds, self.seed, record.number)
            folder = self.folder / "finds" / f"{record.kind}_{record.number}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / case.name).write_bytes(case.data)
            told = f"{record.find}\n{record.how}\n\n" + "\n".join(record.commands) + f"\n\n{record.text}"
            (folder / "find.txt").write_text(told, encoding="utf-8", errors="backslashreplace")

    def seeds(self, kind: Kind, folders: Sequence[Path]) -> list[Seed]:
        """Those made once for this folder, and those of the folders given."""
        made = self.folder / "seeds" / kind.name
        if not (made / ".done").exists():
            made.mkdir(parents=True, exist_ok=True)
            kind.make_seeds(made)
            (made / ".done").touch()
        found = [
            path for folder in (made, *folders) for path in sorted(folder.rglob("*")) if path.suffix.lower() in kind.suffixes
        ]
        small = (path for path in found if path.is_file() and path.stat().st_size <= kind.largest_seed)
        return [Seed(path.name, path.read_bytes()) for path in small]

    def table(self) -> str:
        """Cases by kind and what came of them, and finds by what they are."""
        rows = [
            "| kind | cases | refused | accepted | of them without a judge | finds | most MB | longest s |",
            "|" + "---|" * 8,
        ]
        for kind in dict.fromkeys(record.kind for record in self.records):
            of_kind = [record for record in self.records if record.kind == kind]
            outcomes = Counter(record.outcome for record in of_kind)
            finds = sum(bool(record.find) for record in of_kind)
            worst = f"{max(record.megabytes for record in of_kind)} | {max(record.seconds for record in of_kind):.1f}"
            accepted = outcomes["accepted"] + outcomes["undecided"]
            counts = f"{outcomes['refused']} | {accepted} | {outcomes['undecided']}"
            rows.append(f"| {kind} | {len(of_kind)} | {counts} | {finds} | {worst} |")
        groups = Counter((record.kind, record.find) for record in self.records if record.find)
        rows += ["", "| kind | find | times | first case |", "|---|---|---|---|"] if groups else []
        for (kind, find), times in groups.most_common():
            first = next(record for record in self.records if (record.kind, record.find) == (kind, find))
            rows.append(f"| {kind} | {find} | {times} | {first.number} of {first.seed} |")
        return "\n".join(rows)


def _is_whole(line: str) -> bool:
    """Not the last line of a killed process."""
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def work(campaign: Campaign, todo: Iterator[tuple[int, str]], kinds: Kinds, worker: Worker, stop: threading.Event) -> None:
    """Take cases until there are none, or it is time to stop."""
    try:
        while not stop.is_set():
            with TURN:
                number, name = next(todo, (0, ""))
            if not name:
                return
            campaign.keep(worker.run(name, number), *kinds[name])
    finally:
        worker.close()


TURN = threading.Lock()


def parse(arguments: Sequence[str] | None, known: Collection[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the state and the finds")
    parser.add_argument("--kind", action="append", choices=list(known), help="repeatable; without it, all")
    parser.add_argument("--max-cases", type=int, default=100, help="of each kind, earlier runs counted")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after that time; the same command goes on")
    parser.add_argument("--seeds", type=Path, action="append", default=[], help="a folder of files to damage beside its own")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--limit-seconds", type=float, default=Limits.seconds, help="of a case, until it counts as hung")
    parser.add_argument("--limit-megabytes", type=int, default=Limits.megabytes, help="of memory")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None, known: Mapping[str, type[Kind]] = KINDS) -> Campaign:
    """Run the cases that are left; what the folder then holds."""
    options = parse(arguments, known)
    campaign = Campaign(options.output.resolve(), options.seed)
    chosen = [known[name]() for name in options.kind or known]
    kinds = {kind.name: (kind, seeds) for kind in chosen if (seeds := campaign.seeds(kind, options.seeds))}
    done = {(record.number, record.kind) for record in campaign.records}
    todo = (case for case in itertools.product(range(options.max_cases), kinds) if case not in done)
    limits, stop = Limits(options.limit_seconds, options.limit_megabytes), threading.Event()
    threads = []
    for index in range(options.workers):
        worker = Worker(campaign.folder / "work" / str(index), kinds, campaign.seed, limits)
        threads.append(threading.Thread(target=work, args=(campaign, todo, kinds, worker, stop)))
        threads[-1].start()
    until = time.monotonic() + options.seconds
    try:
        while any(thread.is_alive() for thread in threads) and time.monotonic() < until:
            time.sleep(0.1)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        print(campaign.table())
    return campaign


if __name__ == "__main__":
    sys.exit(int(any(record.find for record in main().records)))
