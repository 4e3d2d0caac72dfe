"""Workers of a Ray cluster, as many as it has room for, and tasks for them: whoever dies or hangs is replaced.

A task that is under way for far longer than any before it is done by another worker too, and whoever is first counts
(Dean and Ghemawat, MapReduce, 2004, section 3.6).
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from sr_deploy.cluster.worker import Ready, Work, Worker
from sr_deploy.errors import SrDeployError, UsageError, first_line

IN_FLIGHT = 2
"""Tasks that a worker has at once: while it does one, the next is there already."""

MOST_DEATHS = 3
LATE = 4
"""A task is late after so many times the seconds of the longest of its kind, and not before the next many:"""

LATE_SECONDS = 60.0
_LOOK_SECONDS = 2.0
_PATIENCE = 300.0
"""Seconds without any worker until a run gives up."""

_LOG = logging.getLogger(__name__)


@dataclass
class Errand:
    """A call of a Worker's method. done: gets the result; failed: what it raised, or that workers died of it.

    repeatable: whether two workers may be at it at once. closed: one of the two was called.
    """

    method: str
    arguments: tuple[Any, ...]
    done: Callable[[Any], None]
    failed: Callable[[Exception], None]
    repeatable: bool = False
    deaths: int = 0
    repeated: bool = False
    closed: bool = False


class DeathError(SrDeployError):
    """Workers died of a task, again and again."""


@dataclass
class _Member:
    """A worker. tasks: the first is under way since `began`, the others wait."""

    actor: Any
    opening: Any
    ready: Ready | None = None
    refused: bool = False
    tasks: dict[Any, Errand] = field(default_factory=dict)
    began: float = 0.0


class Crew:
    """The workers of one run; a context manager that dismisses them.

    work: what they have in common. cpus, gpus: of each. most: how many; None for as many as the cluster has room for, also on
    nodes that join later.
    """

    def __init__(self, work: Work, *, cpus: float, gpus: float, most: int | None) -> None:
        import ray

        self._ray = ray
        self._work = ray.put(work)
        self._needs = {"CPU": cpus} | ({"GPU": gpus} if gpus else {})
        self._class = ray.remote(Worker).options(num_cpus=cpus, num_gpus=gpus, max_restarts=0)
        self._most = most
        self._members: list[_Member] = []
        self._queue: deque[Errand] = deque()
        self._looked = 0.0
        self._alive = time.monotonic()
        self._refusal: Exception | None = None
        self._longest: dict[str, float] = {}

    @property
    def members(self) -> list[Ready]:
        """Those that are at work."""
        return [member.ready for member in self._members if member.ready]

    def add(self, task: Errand, *, first: bool = False) -> None:
        """One more task; first: before those that wait."""
        if first:
            self._queue.appendleft(task)
        else:
            self._queue.append(task)

    @property
    def idle(self) -> int:
        """How many tasks would be taken at once."""
        room = sum(IN_FLIGHT - len(member.tasks) for member in self._members if member.ready)
        return max(room - len(self._queue), 0)

    def work(self, *, more: bool = False) -> bool:
        """Hand out tasks, wait for something to happen, and tell of it; whether anything is left to do.

        more: more tasks come once somebody is idle.

        Raises: UsageError where no worker can be had, for that worker's reason; SrDeployError for a cluster without room.
        """
        self._look()
        self._repeat_late()
        for member in self._members:
            while member.ready and self._queue and len(member.tasks) < IN_FLIGHT and not self._is_late(member):
                self._hand_out(member)
        owners = {ref: member for member in self._members for ref in (*member.tasks, member.opening) if ref is not None}
        under_way = any(not task.closed for member in self._members for task in member.tasks.values())
        if not under_way and not self._queue and not more:
            return False
        ready, _ = self._ray.wait(list(owners), timeout=0.5) if owners else ([], None)
        for ref in ready:
            if owners[ref] in self._members:
                self._settle(owners[ref], ref)
        return True

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        for member in self._members:
            self._ray.kill(member.actor)

    def _hand_out(self, member: _Member) -> None:
        task = self._queue.popleft()
        if task.closed:
            return
        member.began = member.began if member.tasks else time.monotonic()
        member.tasks[getattr(member.actor, task.method).remote(*task.arguments)] = task

    def _repeat_late(self) -> None:
        """What is late, and what waits behind it, is done by others too; who is late with what is done is replaced."""
        for member in [member for member in self._members if self._is_late(member)]:
            running, *waiting = member.tasks.values()
            if running.closed:
                _LOG.warning("A worker hangs, another did its work; it is replaced: %s", member.ready and member.ready.where)
                self._ray.kill(member.actor)
                self._members.remove(member)
                self._put_back(task for task in waiting if not task.repeated)
                continue
            late = [task for task in (running, *waiting) if task.repeatable and not task.repeated]
            for task in late:
                task.repeated = True
            self._put_back(late)

    def _put_back(self, tasks: Iterable[Errand]) -> None:
        self._queue.extendleft(reversed([task for task in tasks if not task.closed]))

    def _is_late(self, member: _Member) -> bool:
        task = next(iter(member.tasks.values()), None)
        if task is None or task.method not in self._longest:
            return False
        return time.monotonic() - member.began > max(LATE_SECONDS, LATE * self._longest[task.method])

    def _settle(self, member: _Member, ref: Any) -> None:
        task = member.tasks.get(ref)
        try:
            result = self._ray.get(ref)
        except self._ray.exceptions.RayTaskError as exc:
            error = exc.cause if isinstance(exc.cause, Exception) else exc
            if task is None:
                self._refuse(member, error)
                return
            if self._close(member, ref):
                task.failed(error)
        except self._ray.exceptions.RayError as exc:
            self._bury(member, exc)
        else:
            if task is None:
                member.ready, member.opening = result, None
                return
            if self._close(member, ref):
                task.done(result)

    def _close(self, member: _Member, ref: Any) -> bool:
        """Whether a result is the first of its task."""
        task, now = member.tasks.pop(ref), time.monotonic()
        self._longest[task.method] = max(now - member.began, self._longest.get(task.method, 0.0))
        member.began = now
        first, task.closed = not task.closed, True
        return first

    def _refuse(self, member: _Member, error: Exception) -> None:
        """A worker that cannot begin keeps its place, so that no other is tried there."""
        member.refused, member.opening = True, None
        self._refusal = self._refusal or error
        _LOG.warning("A worker was refused: %s", first_line(error))

    def _bury(self, member: _Member, error: Exception) -> None:
        """What a dead worker was at is blamed for it and done again; what only waited is done again."""
        self._members.remove(member)
        if not member.tasks:
            return
        _LOG.warning("A worker died, its work is done again: %s", first_line(error))
        running, *waiting = member.tasks.values()
        self._put_back(waiting)
        running.deaths += not running.closed
        if running.deaths < MOST_DEATHS:
            self._put_back([running])
        elif not running.closed:
            running.closed = True
            running.failed(DeathError(f"{running.deaths} workers died of it ({first_line(error)}); give workers more memory"))

    def _look(self) -> None:
        """As many workers as there is room for."""
        now = time.monotonic()
        if now - self._looked < _LOOK_SECONDS:
            return
        self._looked = now
        has = self._ray.cluster_resources()
        room = min(int(has.get(kind, 0) // count) for kind, count in self._needs.items() if count)
        wanted = max(room, 1) if self._most is None else min(max(room, 1), self._most)
        for _ in range(wanted - len(self._members)):
            actor = self._class.remote(self._work)
            self._members.append(_Member(actor, actor.open.remote()))
        if self._refusal and all(member.refused for member in self._members):
            raise self._refusal
        self._alive = now if self.members else self._alive
        if now - self._alive > _PATIENCE:
            needs = ", ".join(f"{count:g} {kind}" for kind, count in self._needs.items())
            raise UsageError(f"the cluster has no room for a worker of {needs}; ask for less, or add machines")
