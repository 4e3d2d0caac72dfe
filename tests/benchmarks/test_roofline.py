from __future__ import annotations

import pytest
from roofline import Ceilings, Work, copy_speeds, count_work, seconds_per_call

from sr_deploy.device.device import Device
from sr_deploy.engines.facts import graph_facts
from tests.graphs import image_graph


def test_work_is_counted_by_hand() -> None:
    work = count_work(image_graph(scale=2, depth=2), 10, 7)
    first, last = 3 * 3 * 9, 3 * 12 * 9
    assert work.flops == 2 * 70 * (2 * first + last)
    assert work.bytes == 2 * (2 * (70 * 3 + first + 70 * 3) + (70 * 3 + last + 70 * 12))


def test_work_grows_with_the_frame_as_the_card_has_it() -> None:
    model = image_graph(scale=4, depth=3)
    assert count_work(model, 54, 96).flops == pytest.approx(2 * graph_facts(model).macs * 54 * 96, rel=0.01)


def test_the_bound_is_the_slower_of_both() -> None:
    work = Work(flops=8e12, bytes=1e12)
    assert Ceilings(copy=1e12, matmul=4e12).bound(work) == 2.0
    assert Ceilings(copy=0.25e12, matmul=4e12).bound(work) == 4.0
    assert Ceilings(copy=1e12, matmul=None).bound(work) == 1.0


def test_every_call_is_waited_for() -> None:
    calls: list[str] = []
    assert seconds_per_call(lambda: calls.append("call"), lambda: calls.append("wait"), 1e-6) > 0
    assert calls[-1] == "wait" and calls.count("call") >= 9


def test_copies_are_measured_on_the_cpu_too() -> None:
    pytest.importorskip("warp")
    assert all(rate > 0 for rate in copy_speeds(Device("cpu"), 1 << 12).values())
