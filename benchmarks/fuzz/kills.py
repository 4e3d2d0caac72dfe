"""Stop `sr-deploy upscale` at random moments, by hundreds: what is left, and what comes of going on, against a whole run.

    python benchmarks/fuzz/kills.py -o FOLDER INPUT... [--signal KILL]... [--stops 100] [--seed 0] [-- OPTIONS]

INPUT is a folder of pictures, or a video; OPTIONS go to `upscale`. Each case stops the same command one to three times, then
lets it end. A find is a result that differs by a byte from that of the whole run, or has its name before it is complete; an
exit code or a word that no stop explains; a file that is left at the end. The exit code is 1 if there are any.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

STOPPED = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}
MOST_STOPS = 3
SECONDS = 600


@dataclass
class Tally:
    """What one signal did: stops, those that came too late, and seconds of work that no later run could use."""

    stops: int = 0
    late: int = 0
    lost: list[float] = field(default_factory=list)
    finds: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Ended:
    code: int
    text: str
    seconds: float
    stopped: bool


class Command:
    """`upscale` of the same inputs into the same folder, whole or stopped."""

    def __init__(self, inputs: Sequence[Path], output: Path, options: Sequence[str]) -> None:
        self.output = output
        target = f"{output}/"
        program = str(Path(sys.executable).with_name("sr-deploy"))
        self._line = [program, "upscale", *map(str, inputs), "-o", target, *options]

    def clear(self) -> None:
        shutil.rmtree(self.output, ignore_errors=True)
        self.output.mkdir(parents=True)

    def run(self, stop: signal.Signals | None = None, after: float = SECONDS) -> Ended:
        """With a signal, it is sent after so many seconds if the command is still at work."""
        started = time.monotonic()
        with subprocess.Popen(self._line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
            try:
                _, text = process.communicate(timeout=after)
                stopped = False
            except subprocess.TimeoutExpired:
                stopped = True
                process.send_signal(stop or signal.SIGKILL)
                _, text = process.communicate(timeout=SECONDS)
        return Ended(process.returncode, text, time.monotonic() - started, stopped)

    def results(self) -> dict[str, bytes]:
        """What has a name of its own: by that name."""
        return {
            str(path.relative_to(self.output)): path.read_bytes()
            for path in sorted(self.output.rglob("*"))
            if path.is_file() and not self._is_unfinished(path)
        }

    def unfinished(self) -> list[Path]:
        return [path for path in self.output.rglob("*") if self._is_unfinished(path)]

    def last_kept(self) -> float:
        """When the last thing that counts was finished, as a file's time; 0 without any."""
        kept = [*self.output.glob("*.part/journal.jsonl"), *(self.output / name for name in self.results())]
        return max((path.stat().st_mtime for path in kept), default=0.0)

    def _is_unfinished(self, path: Path) -> bool:
        return any(part.endswith(".part") for part in path.relative_to(self.output).parts)


def case(command: Command, how: signal.Signals, whole: dict[str, bytes], seconds: float, random: Random, tally: Tally) -> None:
    """Stop the command one to three times, then let it end."""
    command.clear()
    for _ in range(random.randint(1, MOST_STOPS)):
        began = time.time()
        ended = command.run(how, random.uniform(0.05, 1.05) * seconds)
        if not ended.stopped:
            tally.late += 1
            tally.finds += explained(ended, {0})
            break
        now = time.time()
        tally.stops += 1
        tally.lost.append(now - max(began, command.last_kept()))
        tally.finds += explained(ended, {STOPPED[how], -how, 0})
        tally.finds += [
            f"after {how.name}: {name} is not that of a whole run"
            for name, data in command.results().items()
            if whole.get(name) != data
        ]
    ended = command.run()
    tally.finds += explained(ended, {0})
    results = command.results()
    tally.finds += [f"at the end: {name} differs" for name in whole if results.get(name) != whole[name]]
    tally.finds += [f"at the end: {name} is too much" for name in results if name not in whole]
    tally.finds += [f"at the end: {path} is left" for path in command.unfinished()]


def explained(ended: Ended, codes: set[int]) -> list[str]:
    strange = [f"exit {ended.code}: {ended.text[-500:]}"] if ended.code not in codes else []
    told = [f"said: {ended.text[-500:]}"] if "Traceback" in ended.text or "internal error" in ended.text else []
    return strange + told


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("inputs", nargs="+", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True, help="a folder that is emptied")
    parser.add_argument("--signal", action="append", choices=["KILL", "TERM", "INT"], help="repeatable; without it, all")
    parser.add_argument("--stops", type=int, default=100, help="of each signal")
    parser.add_argument("--seed", type=int, default=0)
    ours = list(sys.argv[1:] if arguments is None else arguments)
    split = ours.index("--") if "--" in ours else len(ours)
    options = parser.parse_args(ours[:split])
    options.upscale = ours[split + 1 :]
    return options


def main(arguments: Sequence[str] | None = None) -> dict[str, Tally]:
    """What each signal did."""
    options = parse(arguments)
    command = Command(options.inputs, options.output.resolve() / "results", ["--no-progress", *options.upscale])
    command.clear()
    ended = command.run()
    if ended.code:
        raise SystemExit(f"the whole run ended with {ended.code}: {ended.text}")
    whole, tallies, random = command.results(), {}, Random(options.seed)
    print(f"a whole run: {len(whole)} results in {ended.seconds:.1f} s", flush=True)
    print("| signal | stops | came too late | lost, median s | lost, most s | finds |\n|---|---|---|---|---|---|", flush=True)
    for name in options.signal or ["KILL", "TERM", "INT"]:
        tally = tallies[name] = Tally()
        while tally.stops < options.stops:
            case(command, signal.Signals[f"SIG{name}"], whole, ended.seconds, random, tally)
        lost = sorted(tally.lost)
        figures = (name, tally.stops, tally.late, f"{lost[len(lost) // 2]:.1f}", f"{lost[-1]:.1f}", len(tally.finds))
        print("|", " | ".join(map(str, figures)), "|", flush=True)
        print("".join(f"{find}\n" for find in tally.finds), end="", flush=True)
    return tallies


if __name__ == "__main__":
    sys.exit(int(any(tally.finds for tally in main().values())))
