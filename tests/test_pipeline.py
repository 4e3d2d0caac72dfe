from __future__ import annotations

import gc
import os
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sr_deploy.pipeline import Timing, run_pipeline

STAGES = ("read", "work", "write")
PATIENCE = 20.0


class BoomError(Exception):
    pass


class Item:
    """Something that can be counted while it lives."""

    def __init__(self, index: int) -> None:
        self.index = index


@pytest.fixture(autouse=True)
def _no_thread_left() -> Iterator[None]:
    before = _running()
    yield
    assert _running() == before


def _running() -> set[threading.Thread]:
    """Without those that Ctrl-C kept from starting: Python lists them for ever."""
    return {thread for thread in threading.enumerate() if thread.ident is not None}


def run_to_end(
    count: int, *, depth: int = 1, workers: int = 1, fail: tuple[str, int] | None = None, pause: str = ""
) -> list[int]:
    """Run `count` items within PATIENCE seconds; `fail` names the stage and the item that raise, `pause` the slow stage."""
    written: list[int] = []

    def step(stage: str, index: int) -> None:
        if fail == (stage, index):
            raise BoomError(f"{stage} {index}")
        if stage == pause:
            time.sleep(0.001)

    def read() -> Iterator[int]:
        for index in range(count):
            step("read", index)
            yield index

    def work(index: int) -> int:
        step("work", index)
        return index * 10

    def write(result: int) -> None:
        step("write", result // 10)
        written.append(result)

    _within(PATIENCE, lambda: run_pipeline(read(), work, write, depth=depth, workers=workers))
    return written


def _within(seconds: float, call: Callable[[], object]) -> None:
    """A pipeline that hangs would hang the tests; run it aside, where the clock can be watched."""
    caught: list[BaseException] = []

    def target() -> None:
        try:
            call()
        except BaseException as exc:
            caught.append(exc)

    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), "the pipeline hangs"
    if caught:
        raise caught[0]


@settings(deadline=None, max_examples=60)
@given(count=st.integers(0, 12), depth=st.integers(1, 4), workers=st.integers(1, 4), pause=st.sampled_from(("", *STAGES)))
def test_everything_arrives_in_order(count: int, depth: int, workers: int, pause: str) -> None:
    assert run_to_end(count, depth=depth, workers=workers, pause=pause) == [10 * index for index in range(count)]


@settings(deadline=None, max_examples=150)
@given(
    data=st.data(),
    count=st.integers(1, 12),
    depth=st.integers(1, 4),
    workers=st.integers(1, 4),
    pause=st.sampled_from(("", *STAGES)),
)
def test_a_fault_anywhere_is_raised_as_it_is(data: st.DataObject, count: int, depth: int, workers: int, pause: str) -> None:
    stage = data.draw(st.sampled_from(STAGES))
    index = data.draw(st.integers(0, count - 1))
    before = threading.active_count()
    with pytest.raises(BoomError, match=f"^{stage} {index}\\b") as caught:
        run_to_end(count, depth=depth, workers=workers, pause=pause, fail=(stage, index))
    assert caught.value.__notes__ == [f"pipeline: in stage '{stage}', item {index}"]
    assert threading.active_count() == before


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("index", [0, 50, 99])
def test_a_fault_stops_the_neighbors(stage: str, index: int) -> None:
    started = dict.fromkeys(STAGES, 0)

    def step(name: str, at: int) -> None:
        started[name] += 1
        if (name, at) == (stage, index):
            raise BoomError

    def read() -> Iterator[int]:
        for at in range(100):
            step("read", at)
            yield at

    def work(at: int) -> int:
        step("work", at)
        return at

    with pytest.raises(BoomError):
        run_pipeline(read(), work, lambda at: step("write", at))
    assert started["read"] <= index + 6
    assert started["write"] <= index + 1


def test_a_fault_in_the_middle_of_full_queues_does_not_hang() -> None:
    blocked = threading.Event()

    def write(_: int) -> None:
        blocked.wait(0.2)  # long enough for both queues to fill
        raise BoomError

    with pytest.raises(BoomError):
        run_pipeline(range(1000), lambda index: index, write)


def test_a_source_that_is_no_iterable_leaves_no_thread() -> None:
    with pytest.raises(TypeError):
        run_pipeline(7, lambda item: item, lambda _: None)  # type: ignore[arg-type]


def test_a_dying_reader_is_no_end_of_stream() -> None:
    written: list[int] = []

    def read() -> Iterator[int]:
        yield from range(3)
        raise EOFError("the file ends in the middle")

    with pytest.raises(EOFError):
        run_pipeline(read(), lambda item: item, written.append)
    assert written in ([], [0], [0, 1], [0, 1, 2])


def test_the_source_is_closed_on_its_own_thread_when_another_stage_fails() -> None:
    closed: list[str] = []

    def read() -> Iterator[int]:
        try:
            yield from range(100)
        finally:
            closed.append(threading.current_thread().name)

    def work(_: int) -> int:
        raise BoomError

    with pytest.raises(BoomError):
        run_pipeline(read(), work, lambda _: None)
    assert closed == ["pipeline-read"]


def test_work_runs_on_the_callers_thread() -> None:
    threads = {name: set[int]() for name in STAGES}

    def read() -> Iterator[int]:
        for index in range(5):
            threads["read"].add(threading.get_ident())
            yield index

    def work(index: int) -> int:
        threads["work"].add(threading.get_ident())
        return index

    run_pipeline(read(), work, lambda _: threads["write"].add(threading.get_ident()))
    assert threads["work"] == {threading.get_ident()}
    assert len(set.union(*threads.values())) == 3


def test_workers_work_side_by_side_and_count_as_one() -> None:
    together = threading.Barrier(3, timeout=PATIENCE)

    def work(index: int) -> int:
        together.wait()  # comes back only when three are here at once
        return index

    written: list[int] = []
    timing = run_pipeline(range(9), work, written.append, workers=3)
    assert written == list(range(9))
    assert timing.work <= timing.wall


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Ctrl-C in a finalizer is lost in Python
@pytest.mark.parametrize("workers", [1, 3])
def test_ctrl_c_at_any_moment_ends_every_stage(workers: int) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    earlier = signal.signal(signal.SIGALRM, interrupt)
    try:
        for attempt in range(90 // workers):
            ends: list[int] = []
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.0005 + attempt % 30 * 0.0001)
                run_pipeline(range(100000), lambda index: index, ends.append, workers=workers)
            except KeyboardInterrupt:
                pass
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            assert ends == list(range(len(ends)))
    finally:
        signal.signal(signal.SIGALRM, earlier)


@pytest.mark.parametrize("workers", [1, 3])
def test_ctrl_c_inside_a_lock_is_told_as_what_it_is(workers: int) -> None:
    """Where Ctrl-C comes while a thread is started, a lock of the standard library's complains that it is not held."""

    def work(index: int) -> int:
        try:
            raise KeyboardInterrupt
        finally:
            if index == 0:
                raise RuntimeError("release unlocked lock")

    with pytest.raises(KeyboardInterrupt):
        run_pipeline(range(10), work, lambda _: None, workers=workers)


def test_ctrl_c_ends_workers() -> None:
    def work(index: int) -> int:
        if index == 3:
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.001)
        return index

    with pytest.raises(KeyboardInterrupt):
        run_pipeline(range(100000), work, lambda _: None, workers=2)


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("slow", STAGES)
def test_few_items_are_alive(workers: int, depth: int, slow: str) -> None:
    alive: weakref.WeakSet[Item] = weakref.WeakSet()
    most = 0

    def make(index: int) -> Item:
        nonlocal most
        item = Item(index)
        alive.add(item)
        most = max(most, len(alive))
        return item

    def wait(stage: str) -> None:
        if stage == slow:
            time.sleep(0.002)

    def read() -> Iterator[Item]:
        for index in range(60):
            wait("read")
            yield make(index)

    def work(item: Item) -> Item:
        wait("work")
        return item

    gc.disable()  # nothing may need the collector to go away
    try:
        run_pipeline(read(), work, lambda _: wait("write"), depth=depth, workers=workers)
        assert len(alive) == 0
    finally:
        gc.enable()
    assert most <= 2 * depth + workers + 2


def test_stages_overlap_and_their_time_is_told() -> None:
    def read() -> Iterator[int]:
        for index in range(10):
            time.sleep(0.01)
            yield index

    def work(index: int) -> int:
        time.sleep(0.02)
        return index

    timing = run_pipeline(read(), work, lambda _: time.sleep(0.01))
    assert timing.items == 10
    assert timing.bottleneck == "work"
    assert timing.read >= 0.1 and timing.work >= 0.2 and timing.write >= 0.1
    assert timing.wall < timing.read + timing.work + timing.write


def test_nothing_to_do() -> None:
    timing = run_pipeline((), lambda item: item, lambda _: None)
    assert timing == Timing(0, timing.read, 0.0, 0.0, timing.wall)


@pytest.mark.parametrize("wrong", [{"depth": 0}, {"workers": 0}])
def test_depth_and_workers_are_at_least_one(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="1 or more"):
        run_pipeline((), lambda item: item, lambda _: None, **wrong)


@pytest.mark.parametrize("where", ["in work", "waiting for the reader", "waiting for the writer"])
def test_ctrl_c_ends_every_stage(where: str) -> None:
    """A real SIGINT, sent while the caller's thread works or waits."""
    busy = threading.Event()

    def send() -> None:
        busy.wait(PATIENCE)
        time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    def read() -> Iterator[int]:
        for index in range(1000):
            if where == "waiting for the reader" and index == 3:
                busy.set()
                time.sleep(0.2)
            yield index

    def work(index: int) -> int:
        if where == "in work" and index == 3:
            busy.set()
            time.sleep(PATIENCE)
        return index

    def write(index: int) -> None:
        if where == "waiting for the writer" and index == 3:
            busy.set()
            time.sleep(0.2)

    sender = threading.Thread(target=send)
    sender.start()
    with pytest.raises(KeyboardInterrupt):
        run_pipeline(read(), work, write)
    sender.join()


def test_ctrl_c_wins_over_a_fault_of_a_neighbor() -> None:
    working, failed = threading.Event(), threading.Event()

    def read() -> Iterator[int]:
        yield 0
        working.wait(PATIENCE)
        failed.set()
        raise BoomError

    def work(_: int) -> int:
        working.set()
        failed.wait(PATIENCE)
        time.sleep(0.02)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_pipeline(read(), work, lambda _: None)
