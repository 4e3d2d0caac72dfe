"""What a case of the fuzzer is, and what a kind of input has to say: how it is made, damaged, run and judged."""

from __future__ import annotations

import re
import shlex
import traceback
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import ClassVar, Literal

from click.testing import CliRunner

from sr_deploy.cli import program

Outcome = Literal["accepted", "refused", "undecided"]
"""undecided: accepted, and the independent reader has no say in it."""


LOG = "commands.txt"
"""In the folder of a case: the commands so far, for one that ends its process."""


@dataclass(frozen=True)
class Seed:
    """A whole file, its name without a folder."""

    name: str
    data: bytes

    @property
    def suffix(self) -> str:
        return Path(self.name).suffix.lower()


@dataclass(frozen=True)
class Case:
    """A damaged seed; `how` says what was done to it."""

    kind: str
    number: int
    seed: Seed
    data: bytes
    how: str
    suffix: str

    @property
    def name(self) -> str:
        return f"{self.kind}_{self.number}{self.suffix}"


@dataclass
class Run:
    """What sr-deploy made of a case. find: what is wrong whatever the judge says, or empty."""

    accepted: bool = False
    find: str = ""
    commands: list[str] = field(default_factory=list)
    text: str = ""

    def note(self, find: str, text: str = "") -> None:
        """Keep the first find."""
        self.find = self.find or find
        self.text += text and f"{text}\n"

    def call(self, *arguments: object, expect: Iterable[int] = (0, 1, 2)) -> tuple[int, str]:
        """Run the program in this process; the exit code, and all that it says."""
        argv = [str(argument) for argument in arguments]
        self.commands.append(shlex.join(["sr-deploy", *argv]))
        with Path(LOG).open("a", encoding="utf-8", errors="backslashreplace") as log:
            log.write(f"{self.commands[-1]}\n")
        done = CliRunner().invoke(program, argv, prog_name="sr-deploy")
        said = done.output
        self.text += f"$ {self.commands[-1]}\n{said}exit {done.exit_code}\n"
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            self.note(f"traceback, {type(done.exception).__name__}", "".join(traceback.format_exception(done.exception)))
        elif "internal error" in said:
            self.note("internal error: " + said.partition("internal error, ")[2].partition(";")[0].strip()[:100])
        elif "Traceback (most recent call last)" in said:
            self.note("traceback in what is printed")
        elif done.exit_code not in expect:
            self.note(f"exit code {done.exit_code}")
        return done.exit_code, said

    def check_leftovers(self, folder: Path, wanted: Sequence[Path], resumable: bool = False) -> None:
        """Find what a run left beside its results. resumable: segments in a folder `NAME.part` are no leftovers."""
        left = {path for path in folder.rglob("*") if path.is_file()} - set(wanted)
        if resumable:
            parts = {path.parent for path in left if path.parent.suffix == ".part"}
            kept = {part for part in parts if any(path.name[:6].isdigit() for path in part.iterdir())}
            left = {path for path in left if path.parent not in kept}
        if left:
            names = sorted({re.sub(r"\w*\d\w*", "*", path.name) for path in left})
            self.note(f"left behind: {', '.join(names)}", "\n".join(map(str, sorted(left))))


@dataclass(frozen=True)
class Limits:
    """seconds: of a case, until it counts as hung. megabytes: of resident memory, of the whole process."""

    seconds: float = 20.0
    megabytes: int = 1024


@dataclass
class Record:
    """What is kept of a case. seed: name of its file. find: empty where nothing is wrong. megabytes: the most it took."""

    kind: str
    number: int
    seed: str
    how: str
    outcome: Outcome
    find: str
    seconds: float
    megabytes: int
    commands: list[str]
    text: str

    @classmethod
    def of(cls, case: Case, outcome: Outcome, run: Run, seconds: float, megabytes: int) -> Record:
        told = (run.find, round(seconds, 3), megabytes, run.commands, run.text[-4000:])
        return cls(case.kind, case.number, case.seed.name, case.how, outcome, *told)


class Kind(ABC):
    """A kind of input. run: in a folder of its own, emptied after the case."""

    name: ClassVar[str]
    suffixes: ClassVar[frozenset[str]]
    """Of files in --seeds that are of this kind."""
    largest_seed: ClassVar[int] = 300_000

    @abstractmethod
    def make_seeds(self, folder: Path) -> None:
        """Write small files into the folder."""

    @abstractmethod
    def damage(self, random: Random, seed: Seed, other: Seed) -> tuple[bytes, str, str]:
        """The bytes of a case, what was done, and its suffix."""

    @abstractmethod
    def run(self, path: Path, case: Case) -> Run:
        """What sr-deploy makes of the file; results go into `path.parent / "out"`."""

    @abstractmethod
    def judge(self, path: Path, case: Case, run: Run) -> str | None:
        """What an independent reader says against what was accepted; empty for nothing, None where it has no say."""


def case_of(kind: Kind, seeds: Sequence[Seed], seed: int, number: int) -> Case:
    """The same for the same seeds, seed and number."""
    random = Random(f"{seed} {kind.name} {number}")
    chosen, other = random.choice(seeds), random.choice(seeds)
    data, how, suffix = kind.damage(random, chosen, other)
    return Case(kind.name, number, chosen, data, f"{chosen.name}: {how}", suffix)
