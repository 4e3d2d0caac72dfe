"""Read ∥ work ∥ write: three stages side by side, order kept, nothing known of what flows through.

The reader and the writer each have a thread, the work runs on the caller's, or on several of its own where that pays; a bounded
queue lies on either side of it.

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
from queue import SimpleQueue
from typing import Any, Generic, Literal, TypeVar, cast

T = TypeVar("T")
A = TypeVar("A")
B = TypeVar("B")

Stage = Literal["read", "work", "write"]


@dataclass(frozen=True)
class Timing:
    """Seconds that each stage was busy, and the seconds on the clock; stages overlap, so they may add up to more.

    Several workers at once count as one: `work` is their mean.
    """

    items: int
    read: float
    work: float
    write: float
    wall: float

    @property
    def bottleneck(self) -> Stage:
        """The stage that was busy longest."""
        return max(("work", "read", "write"), key=lambda stage: float(getattr(self, stage)))


def run_pipeline(
    source: Iterable[A], work: Callable[[A], B], write: Callable[[B], object], *, depth: int = 1, workers: int = 1
) -> Timing:
    """Hand every item of `source` to `work`, every result to `write`, in order; returns where the time went.

    `source` is iterated on the reader's thread and closed there when the run stops early. `depth` is the length of each queue,
    `workers` how many items are worked on at once: at most 2 * depth + workers + 2 items are alive.

    Raises: whatever a stage raised, see the fault contract above. Ctrl-C and SystemExit on the caller's thread win over a
    fault of another stage.
    """
    if depth < 1 or workers < 1:
        raise ValueError(f"depth {depth}, workers {workers}: expected 1 or more of each")
    return _PipelineRun(source, work, write, depth, workers).run()


_END: Any = object()

_PATIENCE = 200
"""Milliseconds in which a thread begins that begins at all."""


class _StoppedError(Exception):
    """Another stage failed; this one has nothing left to do."""


class _Queue(Generic[T]):
    """A bounded queue between two threads: its producer ends it, anybody breaks it.

    Made of queues whose methods are atomic: Ctrl-C inside of a Condition would leave its lock taken for ever.
    """

    def __init__(self, depth: int) -> None:
        self._items: SimpleQueue[T] = SimpleQueue()
        self._free: SimpleQueue[None] = SimpleQueue()
        self._broken = False
        for _ in range(depth):
            self._free.put(None)

    def put(self, item: T) -> None:
        self._free.get()
        if self._broken:
            self._free.put(None)
            raise _StoppedError
        self._items.put(item)

    def end(self) -> None:
        self._items.put(_END)

    def break_off(self) -> None:
        self._broken = True
        self._items.put(_END)
        self._free.put(None)

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        item = self._items.get()
        if self._broken or item is _END:
            self._items.put(_END)
            raise _StoppedError if self._broken else StopIteration
        self._free.put(None)
        return item


class _StageClock:
    """Counts the seconds and the items of one stage, and puts both names on what the stage raises."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.seconds = 0.0
        self.items = 0
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def item(self, index: int | None = None) -> Iterator[None]:
        """Around the work on one item, by default the next one."""
        started = time.perf_counter()
        try:
            yield
        except BaseException as exc:
            exc.add_note(f"pipeline: in stage '{self.stage}', item {self.items if index is None else index}")
            raise
        finally:
            with self._lock:
                self.seconds += time.perf_counter() - started
                self.items += 1


@dataclass(frozen=True)
class _WorkResult(Generic[B]):
    """What became of one item of work."""

    result: B | None = None
    fault: BaseException | None = None

    def value(self) -> B:
        if self.fault is not None:
            raise self.fault
        return cast("B", self.result)


class _PipelineRun(Generic[A, B]):
    def __init__(
        self, source: Iterable[A], work: Callable[[A], B], write: Callable[[B], object], depth: int, workers: int
    ) -> None:
        self._source = source
        self._work = work
        self._write = write
        self._workers = workers
        self._inputs: _Queue[A] = _Queue(depth)
        self._results: _Queue[B] = _Queue(depth)
        self._clocks: dict[Stage, _StageClock] = {
            "read": _StageClock("read"),
            "work": _StageClock("work"),
            "write": _StageClock("write"),
        }
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
            self._guard(self._work_all if self._workers == 1 else self._work_side_by_side)
            for thread in threads:
                thread.join()
        except BaseException as exc:  # Ctrl-C between two stages' own handlers: the threads end all the same
            self._break_off()
            for thread in threads:
                _join(thread)
            raise _unmasked(exc) from None
        fault, self._fault = self._fault, None
        if fault is not None:
            try:
                raise fault
            finally:
                del fault  # the traceback holds this frame, and through it the items
        read, work, write = (clock.seconds for clock in self._clocks.values())
        work /= self._workers
        return Timing(self._clocks["write"].items, read, work, write, time.perf_counter() - started)

    def _guard(self, stage: Callable[[], None]) -> None:
        try:
            stage()
        except _StoppedError:
            pass
        except BaseException as masked:
            exc = _unmasked(masked)
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
                with self._clocks["read"].item():
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
            with self._clocks["work"].item():
                result = self._work(item)
            del item
            self._results.put(result)
            del result
        self._results.end()

    def _work_side_by_side(self) -> None:
        tasks: SimpleQueue[tuple[int, A, SimpleQueue[_WorkResult[B]]] | None] = SimpleQueue()
        started: deque[SimpleQueue[_WorkResult[B]]] = deque()
        threads = [
            threading.Thread(target=self._serve, args=(tasks,), name=f"pipeline-work-{number}")
            for number in range(self._workers)
        ]
        try:
            for thread in threads:
                thread.start()
            for index, item in enumerate(self._inputs):
                started.append(SimpleQueue())
                tasks.put((index, item, started[-1]))
                del item
                if len(started) == self._workers:
                    self._results.put(started.popleft().get().value())
            while started:
                self._results.put(started.popleft().get().value())
        finally:
            for _ in threads:
                tasks.put(None)
            for thread in threads:
                _join(thread)
        self._results.end()

    def _serve(self, tasks: SimpleQueue[tuple[int, A, SimpleQueue[_WorkResult[B]]] | None]) -> None:
        while (task := tasks.get()) is not None:
            index, item, answer = task
            try:
                answer.put(_WorkResult(self._work_on(index, item)))
            except BaseException as exc:
                answer.put(_WorkResult(fault=exc))
            del task, item, answer

    def _work_on(self, index: int, item: A) -> B:
        with self._clocks["work"].item(index):
            return self._work(item)

    def _write_all(self) -> None:
        for result in self._results:
            with self._clocks["write"].item():
                self._write(result)
            del result


def _unmasked(fault: BaseException) -> BaseException:
    """Ctrl-C inside a lock of the standard library's comes out as that lock's complaint: what counts is Ctrl-C."""
    return fault.__context__ if isinstance(fault.__context__, KeyboardInterrupt) else fault


def _join(thread: threading.Thread) -> None:
    """Wait for the end of a thread whose start may have been interrupted: it begins in a moment, or never."""
    for _ in range(_PATIENCE):
        try:
            return thread.join()
        except RuntimeError:
            time.sleep(0.001)
    return None


def _close(iterator: Any) -> None:
    """A generator frees what it holds now, on the thread that ran it; its own last words would hide the fault."""
    close = getattr(iterator, "close", None)
    if close is not None:
        with contextlib.suppress(Exception):
            close()
