"""Tuning on a GPU that NVIDIA Warp's CPU device stands for."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sr_deploy import Upscaler, engines
from sr_deploy.device import gpu
from sr_deploy.device.gpu import GPU, Survey
from sr_deploy.engines import BACKENDS
from sr_deploy.engines.pixels import HEALTH
from sr_deploy.errors import BackendUnavailableError, EngineError, OutOfMemoryError, UsageError, warn_once
from sr_deploy.upscaling.gpu import tune as tune_module
from sr_deploy.upscaling.gpu.frames import FrameRunner, Schedule, size_class
from sr_deploy.upscaling.gpu.schedules import default_schedules
from sr_deploy.upscaling.gpu.tune import Measurement, choose, picture, tune
from tests.graphs import image_graph, save
from tests.upscaling.gpu.test_frames import Machine, MachineBackend, _warp, host, two_precisions

__all__ = ["_warp"]

ONE, TWO = GPU("one", "8.9", 1 << 30), GPU("two", "8.9", 1 << 30)
SIZE = (300, 280)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    machine = Machine()
    backend = MachineBackend("machine", "function", "cuda", "", machine=machine)
    monkeypatch.setattr(engines, "BACKENDS", (*BACKENDS, backend))
    monkeypatch.setattr(gpu, "survey", lambda: Survey((ONE, TWO), driver="580.1"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "é 漢字 'q'"))
    return machine


@pytest.fixture(autouse=True)
def _forget_warnings() -> Iterator[None]:
    warn_once.cache_clear()
    yield


@pytest.fixture
def exact(tmp_path: Path) -> Path:
    return save(image_graph(scale=2, depth=4), tmp_path, "exact.onnx")


def quickly(model: Path, **options: Any) -> Any:
    return tune(model, **{"backend": "machine", "precision": "fp32", "size": SIZE, "seconds": 1e-3, **options})


@pytest.mark.parametrize(
    ("measured", "best"),
    [
        ([(0, 1, 2, 50.0), (256, 4, 2, 90.0), (512, 2, 2, 60.0)], (256, 4, 2)),
        ([(256, 4, 2, 90.0), (0, 1, 2, 88.5)], (0, 1, 2)),  # as fast: the whole frame
        ([(256, 4, 2, 90.0), (256, 8, 2, 91.0), (512, 4, 2, 89.5)], (512, 4, 2)),
        ([(0, 1, 3, 91.0), (0, 1, 2, 90.0), (0, 1, 1, 88.0)], (0, 1, 2)),  # one in flight is more than 2 % slower
        ([(0, 1, 2, None), (256, 1, 2, 1.0)], (256, 1, 2)),
    ],
)
def test_the_choice(measured: list[tuple[int, int, int, float | None]], best: tuple[int, int, int]) -> None:
    measurements = [Measurement(Schedule(*schedule), fps) for *schedule, fps in measured]
    assert choose(measurements).schedule == Schedule(*best)


def test_nothing_to_choose_from() -> None:
    with pytest.raises(EngineError, match="no schedule runs: too large"):
        choose([Measurement(Schedule(), None, problem="too large")])
    with pytest.raises(EngineError, match="there was none"):
        choose([])


def test_an_exact_network_is_tuned_in_tiles_batches_and_slots(machine: Machine, exact: Path) -> None:
    told: list[Measurement] = []
    tuning = quickly(exact, progress=told.append)
    assert tuple(told) == tuning.measurements
    tried = [found.schedule for found in tuning.measurements]
    assert len(set(tried)) == len(tried)
    assert tried[:4] == [Schedule(0, 1, 2), Schedule(256, 1, 2), Schedule(256, 2, 2), Schedule(256, 4, 2)]
    assert {schedule.slots for schedule in tried[4:]} == {1, 3} and len(tried) == 6
    assert all(found.fps and found.fps > 0 and not found.problem for found in tuning.measurements)
    assert [found.tiles for found in tuning.measurements[:2]] == [1, 4]
    assert {shape[0] for _, _, shape in machine.runs} == {1, 2, 4}


def test_options_of_a_backend_are_tried_with_those_before_them_and_kept(
    machine: Machine, exact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = MachineBackend("machine", "function", "cuda", "", machine=machine, options=("slower", "broken", "best", "worse"))
    monkeypatch.setattr(engines, "BACKENDS", (backend, *BACKENDS))
    names = backend.options
    fps = {(): 50.0, names[:1]: 45.0, names[:3]: 70.0, names: 60.0}

    def told(upscale: Upscaler, schedule: Schedule, *_: Any) -> Measurement:
        upscale(picture(16, 16))
        value = fps.get(schedule.options)
        return Measurement(schedule, value, problem="" if value else "the engine refuses")

    monkeypatch.setattr(tune_module, "_measure", told)
    tuning = quickly(exact)
    options = [found.schedule.options for found in tuning.measurements]
    assert options[-5:] == [names[:count] for count in range(5)]
    assert set(options[:-4]) == {()} and tuning.best.schedule.options == names[:3]
    machine.chosen.clear()
    with Upscaler(exact, backend="machine", precision="fp32") as upscale:
        upscale(picture(280, 300))
    assert machine.chosen == [names[:3]]


@pytest.mark.usefixtures("machine")
def test_every_schedule_gives_the_same_pixels_in_fp32(exact: Path) -> None:
    image = picture(280, 300)
    expected = host(exact, image)
    for found in quickly(exact).measurements:
        with Upscaler(exact, backend="machine", precision="fp32", schedule=found.schedule) as upscale:
            np.testing.assert_array_equal(upscale(image), expected)


@pytest.mark.usefixtures("machine")
def test_tiles_of_an_approximate_network_are_left_alone(tmp_path: Path) -> None:
    model = save(image_graph(scale=2, depth=2, pooled=True), tmp_path, "approximate.onnx")
    assert [found.schedule for found in quickly(model).measurements] == [Schedule(0, 1, slots) for slots in (2, 1, 3)]


@pytest.mark.usefixtures("machine")
def test_a_schedule_that_runs_out_of_memory_is_recorded(exact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build = FrameRunner.__init__

    def scarce(self: FrameRunner, engines: Any, tiling: Any, *args: Any, batch: int = 1, **options: Any) -> None:
        if batch > 1 or len(tiling) == 1:
            raise OutOfMemoryError("no memory")
        build(self, engines, tiling, *args, batch=batch, **options)

    monkeypatch.setattr(FrameRunner, "__init__", scarce)
    tuning = quickly(exact)
    assert [(found.schedule.batch, found.problem) for found in tuning.measurements[:3]] == [
        (1, "no memory"),
        (1, ""),
        (2, "no memory"),
    ]
    assert tuning.best.schedule.tile == 256


def test_pixels_that_are_computed_again_are_no_result(tmp_path: Path, machine: Machine) -> None:
    def spoil(precision: str, results: dict[str, Any]) -> None:
        if precision == "fp16":
            results[HEALTH][:] = np.nan

    machine.spoil = spoil
    with pytest.raises(EngineError, match="no schedule runs: the pixels were not sane"):
        quickly(two_precisions(tmp_path), precision="auto", candidates=[Schedule()])
    assert not default_schedules().exists()


def test_the_best_is_kept_and_used(exact: Path, machine: Machine) -> None:
    wanted = Schedule(256, 2, 3)
    tuning = quickly(exact, candidates=[wanted])
    assert tuning.path is not None and tuning.path.parent == default_schedules()
    document = json.loads(tuning.path.read_text(encoding="utf-8"))
    assert document["key"] | {"graph": ""} == {
        "gpu": "one", "capability": "8.9", "driver": "580.1", "backend": "machine", "version": "", "graph": ""
    }  # fmt: skip
    assert document["schedule"] == {"tile": 256, "batch": 2, "slots": 3, "options": []} and document["size"] == list(SIZE)
    machine.runs.clear()
    with Upscaler(exact, backend="machine", precision="fp32") as upscale:
        assert upscale.concurrency == 3
        upscale(picture(280, 300))
    assert {shape[0] for _, _, shape in machine.runs} == {2}
    with Upscaler(exact, backend="machine", precision="fp32", schedule=Schedule()) as upscale:
        assert upscale.concurrency == 2


def test_each_size_has_its_own(exact: Path, machine: Machine) -> None:
    quickly(exact, candidates=[Schedule(256, 4, 1)])
    quickly(exact, candidates=[Schedule(0, 1, 3)], size=(60, 50))
    with Upscaler(exact, backend="machine", precision="fp32") as upscale:
        assert upscale.concurrency == 3
        for (height, width), batch in {(280, 300): 4, (50, 60): 1, (20, 20): 1, (300, 320): 4}.items():
            machine.runs.clear()
            upscale(picture(height, width))
            assert {shape[0] for _, _, shape in machine.runs} == {batch}


def test_usual_sizes_are_of_different_classes() -> None:
    sizes = [(270, 480), (360, 640), (540, 960), (720, 1280), (1080, 1920)]
    assert len({size_class(*size) for size in sizes}) == len(sizes)
    assert size_class(1, 1) == 0


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize("change", ["driver", "gpu", "graph"])
def test_what_was_measured_elsewhere_is_not_used(
    exact: Path, monkeypatch: pytest.MonkeyPatch, change: str, tmp_path: Path
) -> None:
    quickly(exact, candidates=[Schedule(256, 2, 3)])
    if change == "graph":
        exact = save(image_graph(scale=2, depth=3), tmp_path, "other.onnx")
    else:
        changed = Survey((ONE,), driver="580.2") if change == "driver" else Survey((TWO,), driver="580.1")
        monkeypatch.setattr(gpu, "survey", lambda: changed)
    with Upscaler(exact, backend="machine", precision="fp32") as upscale:
        assert upscale.concurrency == 2


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"{}",
        "batch: 0",
        "size: null",
        'tile: "a"',
        "key: {}",
        "format: 9",
        "format: 1",
        "options: null",
        "options: [1]",
    ],
)
def test_a_damaged_file_is_not_tuned_and_told_once(exact: Path, damage: Any, caplog: pytest.LogCaptureFixture) -> None:
    path = quickly(exact, candidates=[Schedule(256, 2, 3)]).path
    if isinstance(damage, str):
        name, _, value = damage.partition(": ")
        document = json.loads(path.read_text(encoding="utf-8"))
        (document["schedule"] if name in document["schedule"] else document)[name] = json.loads(value)
        damage = json.dumps(document).encode()
    path.write_bytes(damage)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            with Upscaler(exact, backend="machine", precision="fp32") as upscale:
                assert upscale.concurrency == 2
    (record,) = caplog.records
    assert str(path) in record.getMessage() and "sr-deploy tune" in record.getMessage()


@pytest.mark.usefixtures("machine")
def test_a_cache_that_cannot_be_written(exact: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(EngineError, match=r"cannot be made .*XDG_CACHE_HOME"):
        quickly(exact, candidates=[Schedule()])
    assert quickly(exact, candidates=[Schedule()], keep=False).path is None


def test_several_gpus(exact: Path, machine: Machine) -> None:
    tuning = quickly(exact, gpus=(0, 1), candidates=[Schedule()])
    assert {number for number, _, _ in machine.runs} == {0, 1}
    assert json.loads(tuning.path.read_text(encoding="utf-8"))["gpus"] == 2


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize("gpus", [(0, 0), (-1,), ()])
def test_numbers_that_are_none_of_a_gpu(exact: Path, gpus: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="expected numbers from 0, each once"):
        quickly(exact, gpus=gpus)


@pytest.mark.usefixtures("machine")
def test_a_gpu_that_is_not_there(exact: Path) -> None:
    with pytest.raises(BackendUnavailableError, match=r"no GPU 2 on this machine; expected 0 \(one\), 1 \(two\)"):
        quickly(exact, gpus=(0, 2))


def test_the_cpu_is_not_tuned(exact: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    del machine
    with pytest.raises(UsageError, match="runs on the CPU"):
        quickly(exact, backend="onnxruntime")
    monkeypatch.setattr(gpu, "survey", lambda: Survey(problem="no driver", remedy="install it"))
    with pytest.raises(BackendUnavailableError, match="no GPU to tune for: no driver; install it"):
        quickly(exact)
