"""Streams, recordings and graphs on a stand-in for the driver, which breaks what a driver breaks."""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from sr_deploy.device.device import Device, DeviceArray, load_warp
from sr_deploy.device.streams import Recordings
from sr_deploy.errors import EngineError, warn_once
from tests.device.fake_gpu import FakeGPU

Busy = Callable[[], None]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGPU:
    pytest.importorskip("warp")
    found = FakeGPU()
    found.install(monkeypatch)
    warn_once.cache_clear()
    return found


@pytest.fixture
def device(gpu: FakeGPU) -> Device:
    del gpu
    return Device("cpu")


@pytest.fixture
def arrays(device: Device) -> tuple[DeviceArray, DeviceArray]:
    return device.array(np.zeros(4, np.uint8)), device.array(np.full(4, 7, np.uint8))


def test_our_streams_do_not_wait_for_the_legacy_one_and_are_destroyed_with_their_last_user(
    gpu: FakeGPU, device: Device
) -> None:
    ours, theirs = device.stream(), device.stream(4711)
    assert not ours.waits_for_legacy and theirs.cuda_stream == 4711
    handle = ours.cuda_stream
    del ours, theirs
    gc.collect()
    assert gpu.destroyed == [handle]


def test_a_recording_survives_a_busy_process(
    gpu: FakeGPU, device: Device, arrays: tuple[DeviceArray, DeviceArray], caplog: pytest.LogCaptureFixture
) -> None:
    """On a stream as Warp makes it, the same recording breaks: work is then enqueued as ever, and that is noted once."""
    target, source = arrays

    def work(stream: Any) -> None:
        device.copy(target, source, stream=stream)
        gpu.touch_legacy_stream()

    ours, warps = device.stream(), load_warp().Stream(load_warp().get_device("cpu"))
    replay = device.graph(lambda: work(ours), ours)
    assert (target.numpy() == 0).all()
    replay()
    assert (target.numpy() == 7).all() and (gpu.recorded_graphs, gpu.launched_graphs) == (1, 1)
    target.zero_()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            device.graph(lambda: work(warps), warps)()
    assert (target.numpy() == 7).all() and (gpu.recorded_graphs, gpu.launched_graphs) == (1, 1)
    assert [record.message.count("CUDA error 906") for record in caplog.records] == [1]


@pytest.mark.parametrize("forbidden", ["allocate", "wait"])
def test_what_a_recording_does_not_survive_costs_the_graph_alone(
    gpu: FakeGPU, device: Device, arrays: tuple[DeviceArray, DeviceArray], forbidden: str, caplog: pytest.LogCaptureFixture
) -> None:
    target, source = arrays
    stream = device.stream()

    def work() -> None:
        if forbidden == "wait":
            device.synchronize(stream)
        else:
            device.empty((3,), "uint8")
        device.copy(target, source, stream=stream)

    replay = device.graph(work, stream)
    replay()
    replay()
    assert (target.numpy() == 7).all() and gpu.recorded_graphs == 0
    assert len(caplog.records) == 1 and "CUDA error 900" in caplog.text


def test_a_graph_that_cannot_be_made_ready_is_enqueued(
    gpu: FakeGPU, device: Device, arrays: tuple[DeviceArray, DeviceArray], caplog: pytest.LogCaptureFixture
) -> None:
    target, source = arrays
    stream = device.stream()
    gpu.refuses_graphs = True
    replay = device.graph(lambda: device.copy(target, source, stream=stream), stream)
    replay()
    assert (target.numpy() == 7).all()
    assert len(caplog.records) == 1 and "CUDA error 801" in caplog.text


def test_a_graph_that_has_run_and_fails_is_an_error(
    gpu: FakeGPU, device: Device, arrays: tuple[DeviceArray, DeviceArray]
) -> None:
    target, source = arrays
    stream = device.stream()
    replay = device.graph(lambda: device.copy(target, source, stream=stream), stream)
    replay()
    gpu.refuses_graphs = True
    with pytest.raises(EngineError, match="CUDA error 801"):
        replay()


def test_what_is_given_back_stays_in_the_pool(gpu: FakeGPU) -> None:
    Device("cpu")
    assert gpu.pool_threshold == 1 << 30
    gpu.pool_threshold = 1 << 34
    Device("cpu")
    assert gpu.pool_threshold == 1 << 34


def test_page_locked_memory_is_of_the_device_s_context(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    inside: list[bool] = []
    warp = load_warp()
    empty = warp.empty

    class Guard:
        def __enter__(self) -> None:
            inside.append(True)

        def __exit__(self, *_: object) -> None:
            inside.pop()

    def allocate(*arguments: Any, pinned: bool, **options: Any) -> Any:
        assert inside == [True] and pinned
        return empty(*arguments, **options)

    monkeypatch.setattr(Device, "current", lambda _: Guard())
    monkeypatch.setattr(warp, "empty", allocate)
    assert device.host((2, 3), "uint8").shape == (2, 3)


def test_nobody_waits_for_a_stream_while_a_graph_is_recorded() -> None:
    recordings = Recordings()
    under_way, most, waiting = set[str](), list[set[str]](), threading.Barrier(2)

    def inside(name: str) -> None:
        under_way.add(name)
        most.append(set(under_way))
        under_way.discard(name)

    def wait(name: str) -> None:
        with recordings.kept_out():
            waiting.wait(10)  # two threads wait at once, or this breaks
        for _ in range(200):
            with recordings.kept_out():
                inside(name)

    def record() -> None:
        for _ in range(200):
            with recordings.alone():
                inside("record")

    threads = [threading.Thread(target=wait, args=(name,)) for name in "ab"] + [threading.Thread(target=record)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads) and len(most) == 600
    assert all(seen == {"record"} for seen in most if "record" in seen)


def test_who_wants_to_record_is_not_starved_by_those_who_wait() -> None:
    """Of two threads one is always inside: each leaves only when the other has come in anew, or does not for a while."""
    recordings, recorded = Recordings(), threading.Event()
    entries, changed = [0, 0], threading.Condition()

    def wait(own: int) -> None:
        while not recorded.is_set() and max(entries) < 1000:
            with recordings.kept_out(), changed:
                entries[own] += 1
                seen = entries[1 - own]
                changed.notify_all()
                changed.wait_for(lambda seen=seen: entries[1 - own] > seen, timeout=0.2)

    def record() -> None:
        with changed:
            changed.wait_for(lambda: min(entries) > 10, timeout=10)
        with recordings.alone():
            recorded.set()

    threads = [threading.Thread(target=wait, args=(own,)) for own in (0, 1)] + [threading.Thread(target=record)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert recorded.is_set() and max(entries) < 1000


def test_blocks_inside_one_another_do_not_wait_for_a_recording_that_is_wanted() -> None:
    recordings, entered, wanted = Recordings(), threading.Event(), threading.Event()

    def record() -> None:
        entered.wait(10)
        wanted.set()
        with recordings.alone(), recordings.kept_out():
            pass

    thread = threading.Thread(target=record)
    thread.start()
    with recordings.kept_out():
        entered.set()
        wanted.wait(10)
        while recordings._wanted == 0:
            pass
        with recordings.kept_out():
            pass
    thread.join(10)
    assert not thread.is_alive()
