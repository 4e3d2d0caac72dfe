"""The calls: which piece each carries, its command, and how long it may take."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

CALLS = Path(__file__).parent / "remote" / "calls.json"
LONGEST_COMMAND = 2000
BUDGET, START, TRANSFER = 900, 90, 15
"""Seconds: of all calls together, of the machine's start, and of what one call sends. The last two are guesses."""


@dataclass(frozen=True)
class Call:
    """One call, in the root of the tree. `expected_s`: seconds of the command, at least and at most; guesses."""

    title: str
    carry: list[str]
    command: str
    timeout_s: int
    expected_s: tuple[int, int]
    mib: float


def plan_calls(ready: Mapping[str, int], sizes: Mapping[str, float], path: Path = CALLS) -> list[Call]:
    """The calls in order; where one needs pieces that did not travel yet, calls before it send them alone.

    ready: by component, the number of the piece with which it is complete. sizes: MiB that a call with each piece sends.
    """
    calls: list[Call] = []
    sent, last = 0, max(ready.values())

    def add(title: str, command: str, timeout: int, expected: tuple[int, int]) -> None:
        nonlocal sent
        sent = min(sent + 1, last)
        assert len(command) <= LONGEST_COMMAND, f"{title}: {len(command)} characters"
        calls.append(Call(title, [".gpu/kit", f".gpu/p{sent}"], command, timeout, expected, round(sizes[f"p{sent}"], 2)))

    for table in json.loads(path.read_text(encoding="utf-8")):
        need = max(ready[name] for name in table["needs"])
        while sent + 1 < need:
            add(f"send p{sent + 1}", "source .gpu/kit/join.sh", 60, (1, 15))
        add(table["title"], table["command"], table["timeout_s"], tuple(table["expected_s"]))
    return calls


def print_calls(calls: list[Call]) -> None:
    for call in calls:
        least, most = call.expected_s
        print(f"\n# {call.title}: {call.mib:.2f} MiB, {least}-{most} s (guessed) after a transfer of about {TRANSFER} s")
        print(f"carry: {json.dumps(call.carry)}\ntimeout_s: {call.timeout_s}\ncommand: {call.command}")
    least, most = (START + sum(TRANSFER + call.expected_s[end] for call in calls) for end in (0, 1))
    print(f"\nall together {least}-{most} of {BUDGET} s, with {START} s for the start of the machine; guessed")


def write_calls(calls: list[Call], path: Path) -> None:
    path.write_text(json.dumps([asdict(call) for call in calls], indent=1) + "\n", encoding="utf-8")


def read_calls(path: Path) -> list[Call]:
    return [Call(**table) for table in json.loads(path.read_text(encoding="utf-8"))]
