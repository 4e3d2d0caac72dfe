"""Read ∥ work ∥ write: three stages side by side, order kept, nothing known of what flows through.

The reader and the writer each have a thread, the work runs on the caller's; a bounded queue lies on either side of it.

The fault contract:
- The first exception of any stage stops the other two: whatever they are doing now ends, nothing queued is started.
- Every thread has ended when `run_pipeline` returns or raises, after Ctrl-C too.
- The exception itself is raised, with a note that names the stage and the index of the item.
- A reader that dies is never taken for the end of the stream, and nobody waits on a queue that nobody serves.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, Literal, TypeVar

T = TypeVar("T")
A = TypeVar("A")
B = TypeVar("B")

Stage = Literal["read", "work", "write"]


@dataclass(frozen=True)
class Timing:
    """Seconds that each stage was busy, and the seconds on the clock; stages overlap, so they may add up to more."""

    items: int
    read: float
    work: float
    write: float
    wall: float

    @property
    def bottleneck(self) -> Stage:
        """The stage that was busy longest."""
        return max(("work", "read", "write"), key=lambda stage: float(getattr(self, stage)))


def run_pipeline(source: Iterable[A], work: Callable[[A], B], write: Callable[[B], object], *, depth: int = 1) -> Timing:
    """Hand every item of `source` to `work`, every result to `write`, in order; returns where the time went.

    `source` is iterated on the reader's thread and closed there when the run stops early. `depth` is the length of each queue:
    at most 2 * depth + 3 items are alive, one in each stage and the rest waiting.

    Raises: whatever a stage raised, see the fault contract above. Ctrl-C and SystemExit on the caller's thread win over a
    fault of another stage.
    """
    if depth < 1:
        raise ValueError(f"depth {depth}: a queue holds at least 1 item")
    return _Run(source, work, write, depth).run()


_END: Any = object()


class _StoppedError(Exception):
    """Another stage failed; this one has nothing left to do."""


class _Queue(Generic[T]):
    """A bounded queue between two threads: its producer ends it, anybody breaks it."""

    def __init__(self, depth: int) -> None:
        self._items: deque[T] = deque()
        self._depth = depth
        self._changed = threading.Condition()
        self._ended = False
        self._broken = False

    def put(self, item: T) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._broken or len(self._items) < self._depth)
            if self._broken:
                raise _StoppedError
            self._items.append(item)
            self._changed.notify_all()

    def end(self) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def break_off(self) -> None:
        with self._changed:
            self._broken = True
            self._items.clear()
            self._changed.notify_all()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        with self._changed:
            self._changed.wait_for(lambda: self._broken or self._ended or bool(self._items))
            if self._broken:
                raise _StoppedError
            if not self._items:
                raise StopIteration
            item = self._items.popleft()
            self._changed.notify_all()
            return item


class _Clock:
    """Counts the seconds and the items of one stage, and puts both names on what the stage raises."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.seconds = 0.0
        self.items = 0
        self._started = 0.0

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.seconds += time.perf_counter() - self._started
        if error is None:
            self.items += 1
        else:
            error.add_note(f"pipeline: in stage '{self.stage}', item {self.items}")


class _Run(Generic[A, B]):
    def __init__(self, source: Iterable[A], work: Callable[[A], B], write: Callable[[B], object], depth: int) -> None:
        self._source = source
        self._work = work
        self._write = write
        self._inputs: _Queue[A] = _Queue(depth)
        self._results: _Queue[B] = _Queue(depth)
        self._clocks: dict[Stage, _Clock] = {"read": _Clock("read"), "work": _Clock("work"), "write": _Clock("write")}
        self._caller = threading.current_thread()
        self._lock = threading.Lock()
        self._fault: BaseException | None = None

    def run(self) -> Timing:
        started = time.perf_counter()
        threads = [
            threading.Thread(target=self._guard, args=(self._read_all,), name="pipeline-read"),
            threading.Thread(target=self._guard, args=(self._write_all,), name="pipeline-write"),
        ]
        try:
            for thread in threads:
                thread.start()
            self._guard(self._work_all)
            for thread in threads:
                thread.join()
        finally:
            self._stop_unless_done(threads)
        fault, self._fault = self._fault, None
        if fault is not None:
            try:
                raise fault
            finally:
                del fault  # the traceback holds this frame, and through it the items
        read, work, write = (clock.seconds for clock in self._clocks.values())
        return Timing(self._clocks["write"].items, read, work, write, time.perf_counter() - started)

    def _stop_unless_done(self, threads: list[threading.Thread]) -> None:
        """Ctrl-C between two stages' own handlers ends up here: the threads end all the same."""
        alive = [thread for thread in threads if thread.is_alive()]
        if alive:
            self._break_off()
        for thread in alive:
            thread.join()

    def _guard(self, stage: Callable[[], None]) -> None:
        try:
            stage()
        except _StoppedError:
            pass
        except BaseException as exc:
            with self._lock:
                urgent = threading.current_thread() is self._caller and not isinstance(exc, Exception)
                if self._fault is None or urgent:
                    self._fault = exc
            self._break_off()

    def _break_off(self) -> None:
        self._inputs.break_off()
        self._results.break_off()

    def _read_all(self) -> None:
        iterator = iter(self._source)
        try:
            while True:
                with self._clocks["read"]:
                    item = next(iterator, _END)
                if item is _END:
                    break
                self._inputs.put(item)
                del item
        except BaseException:
            _close(iterator)
            raise
        self._inputs.end()

    def _work_all(self) -> None:
        for item in self._inputs:
            with self._clocks["work"]:
                result = self._work(item)
            del item
            self._results.put(result)
            del result
        self._results.end()

    def _write_all(self) -> None:
        for result in self._results:
            with self._clocks["write"]:
                self._write(result)
            del result


def _close(iterator: Any) -> None:
    """A generator frees what it holds now, on the thread that ran it; its own last words would hide the fault."""
    close = getattr(iterator, "close", None)
    if close is not None:
        with contextlib.suppress(Exception):
            close()
