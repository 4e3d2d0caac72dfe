"""Requests on their way: some are worked on, a bounded number waits, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TypeVar

from fastapi import Request

from sr_deploy.errors import CancelledError
from sr_deploy.serve.answers import RefusedError
from sr_deploy.serve.metrics import Metrics

T = TypeVar("T")

_FIRST_GUESS = 0.1
_MEMORY = 0.9
"""Weight of what is known of how long requests take, against the latest."""


class Ticket:
    """One request's right to be worked on: until its time is over, or its client or the service is gone.

    departure: ends when the client leaves. is_torn: nobody wants the result.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._until = math.inf
        self.is_torn = False
        self.departure: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """All its bytes are there: its time begins."""
        self._until = time.monotonic() + self._seconds

    @property
    def left(self) -> float:
        """Seconds that it has yet."""
        return max(0.0, self._until - time.monotonic())

    def tear(self) -> None:
        """Nobody wants the result."""
        self.is_torn = True

    def check(self, done: int = 0, total: int = 0) -> None:
        """Called wherever work can stop, as the progress of an upscaler, too.

        Raises: CancelledError where nobody wants the result; RefusedError once its time is over.
        """
        if self.is_torn:
            raise CancelledError("the client left, or the service is about to end; try again")
        if not self.left:
            raise RefusedError(
                504,
                f"it took more than {self._seconds:g} s ({done} of {total} tiles are done); send a smaller picture, or a job "
                "to /v1/jobs, which has all the time",
            )


class Desk:
    """Takes requests from the moment they come, before their bytes; at most `at_once + queue` of them.

    at_once: how many are worked on together, each on a thread of its own. queue: how many more are taken. seconds: for each.
    metrics: are told how many there are.
    """

    def __init__(self, at_once: int, queue: int, seconds: float, metrics: Metrics) -> None:
        self._at_once = at_once
        self._most = at_once + queue
        self._seconds = seconds
        self._metrics = metrics
        self._pool = ThreadPoolExecutor(at_once, "upscale")
        self._open: set[Ticket] = set()
        self._running = 0
        self._usual = _FIRST_GUESS
        self._stopping = False
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    @asynccontextmanager
    async def ticket(self) -> AsyncIterator[Ticket]:
        """A place, for the block. Raises: RefusedError where all are taken, or the service is about to end."""
        if self._stopping:
            raise _ending()
        if len(self._open) >= self._most:
            wait = self._usual * len(self._open) / self._at_once
            raise RefusedError(503, f"{len(self._open)} requests are under way, which is the most; try again", after=wait)
        self._loop = asyncio.get_running_loop()
        ticket = Ticket(self._seconds)
        self._open.add(ticket)
        self._tell()
        try:
            yield ticket
        finally:
            ticket.tear()
            self._open.discard(ticket)
            self._tell()

    async def run(self, ticket: Ticket, request: Request, work: Callable[[], T]) -> T:
        """What `work` gives, on one of the threads; it is told by the ticket when to stop.

        request: of which every byte is read.

        Raises: RefusedError where its turn does not come in time; CancelledError where the client leaves; what `work` raises.
        """
        ticket.begin()
        task = self._pool.submit(self._work, ticket, work)
        future = asyncio.wrap_future(task)
        future.add_done_callback(lambda done: done.cancelled() or done.exception())
        ticket.departure = asyncio.create_task(_departure(request))
        try:
            await asyncio.wait((future, ticket.departure), timeout=ticket.left, return_when=asyncio.FIRST_COMPLETED)
            if ticket.departure.done():
                ticket.tear()
        finally:
            ticket.departure.cancel()
        if not future.done():
            waited = task.cancel()
            if waited and not ticket.is_torn:
                raise RefusedError(503, f"its turn did not come in {self._seconds:g} s; try again", after=self._seconds)
            ticket.check()
        return await future

    def stop(self) -> None:
        """Take nothing new, and refuse whoever waits; what is worked on goes on."""
        self._stopping = True

    @property
    def is_idle(self) -> bool:
        """Whether no thread is at work."""
        return not self._running

    def interrupt(self) -> None:
        """Answer whoever is there yet that there is no result, and end what is worked on at its next tile. From any thread."""
        for ticket in list(self._open):
            ticket.tear()
            if self._loop is not None and ticket.departure is not None:
                self._loop.call_soon_threadsafe(ticket.departure.cancel)

    def close(self) -> None:
        """Begin nothing any more."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _work(self, ticket: Ticket, work: Callable[[], T]) -> T:
        if self._stopping:
            raise _ending()
        ticket.check()
        began = time.monotonic()
        self._run(+1)
        try:
            return work()
        finally:
            self._run(-1)
            self._usual = _MEMORY * self._usual + (1 - _MEMORY) * (time.monotonic() - began)

    def _run(self, more: int) -> None:
        with self._lock:
            self._running += more
        self._tell()

    def _tell(self) -> None:
        self._metrics.load(waiting=max(0, len(self._open) - self._running), running=self._running)


def _ending() -> RefusedError:
    return RefusedError(503, "the service is about to end; try again", after=1)


async def _departure(request: Request) -> None:
    """Returns when the client leaves, or the answer is sent."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
