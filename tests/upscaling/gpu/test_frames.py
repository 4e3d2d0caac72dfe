"""The whole GPU pipeline; NVIDIA Warp's CPU device stands for the GPU, ONNX Runtime for the engine on it."""

from __future__ import annotations

import gc
import importlib.util
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import sr_deploy
from sr_deploy import Upscaler
from sr_deploy.bundle import Bundle, sha256_of
from sr_deploy.card import GraphCard, ModelCard
from sr_deploy.device.device import Device, load_warp
from sr_deploy.device.gpu import GPU, Survey
from sr_deploy.engines import Backend, open_engine, select_backend
from sr_deploy.engines.engine import DeviceEngine
from sr_deploy.engines.function import DeviceFunctionEngine
from sr_deploy.engines.pixels import HEALTH, INPUT, OUTPUT, to_pixel_form
from sr_deploy.engines.planes import LEVELS, to_planes_form
from sr_deploy.errors import EngineError, FeedError, OutOfMemoryError, UnhealthyOutputError, UsageError
from sr_deploy.pipeline import run_pipeline
from sr_deploy.upscaling import upscaler as upscaler_module
from sr_deploy.upscaling.gpu import frames as frames_module
from sr_deploy.upscaling.gpu import slots
from sr_deploy.upscaling.gpu.frames import FrameRunner, Schedule
from sr_deploy.upscaling.tiling import plan_tiles
from tests.graphs import image_graph, save

Array = np.ndarray[Any, np.dtype[Any]]
MODELS = Path(sr_deploy.__file__).parent / "models"


@dataclass
class Machine:
    """GPUs made of Warp's CPU device: what ran on which, and a hook before each run of an engine; shapes are (N,H,W,C)."""

    contexts: int = 4
    limits: tuple[tuple[int, ...], ...] = ()
    runs: list[tuple[int, str, tuple[int, ...]]] = field(default_factory=list)
    chosen: list[tuple[str, ...]] = field(default_factory=list)
    before: Callable[[int], None] = lambda _: None
    spoil: Callable[[str, dict[str, Array]], None] = lambda _precision, _results: None


@dataclass(frozen=True)
class MachineBackend(Backend):
    machine: Machine = field(default_factory=Machine)

    def usable_precisions(self) -> tuple[Any, ...]:
        return ("fp32", "fp16")

    def open(self, graph: bytes, *, precision: Any, threads: int | None, gpu: int = 0) -> DeviceEngine:
        del threads
        machine = self.machine
        machine.chosen.append(self.chosen)
        inner = select_backend("onnxruntime").open(graph, precision=precision, threads=1)
        (spec,) = inner.inputs
        takes_bytes = spec.dtype == np.uint8
        limits = machine.limits if takes_bytes else [planar(shape) for shape in machine.limits]

        def run(array: Array) -> tuple[Array, ...]:
            machine.before(gpu)
            machine.runs.append((gpu, precision, array.shape if takes_bytes else interleaved(array.shape)))
            results = inner.run({spec.name: np.ascontiguousarray(array)})
            machine.spoil(precision, results)
            return tuple(results[output.name] for output in inner.outputs)

        return DeviceFunctionEngine(
            run,
            inner.inputs,
            inner.outputs,
            device=Device("cpu"),
            contexts=machine.contexts,
            limits={spec.name: (limits[0], limits[1])} if limits else {},
        )


def interleaved(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[0], *shape[2:], shape[1])


def planar(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[0], shape[3], *shape[1:3])


@pytest.fixture(scope="module", autouse=True)
def _warp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    if importlib.util.find_spec("warp") is None:
        pytest.skip("NVIDIA Warp is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WARP_CACHE_PATH", str(tmp_path_factory.mktemp("warp")))
        yield


@pytest.fixture(params=["pixels", "planes"])
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Frames go through the one form or the other; bytes are the same."""
    machine = Machine()
    backend = MachineBackend("machine", "function", "cuda", "", planes=request.param == "planes", machine=machine)
    monkeypatch.setattr(upscaler_module, "select_backend", lambda *_, **__: backend)
    monkeypatch.setattr(frames_module, "free_memory", lambda _: 1 << 30)
    return machine


@pytest.fixture
def exact(tmp_path: Path) -> Path:
    return save(image_graph(scale=2, depth=4), tmp_path, "exact.onnx")


@pytest.fixture
def approximate(tmp_path: Path) -> Path:
    return save(image_graph(scale=2, depth=2, pooled=True), tmp_path, "approximate.onnx")


def photo(height: int, width: int, seed: int = 1) -> Array:
    ramp = np.add.outer(np.linspace(20, 200, height), np.linspace(0, 50, width))
    noise = np.random.default_rng(seed).normal(0, 20, (height, width, 3))
    return np.clip(ramp[..., None] + noise, 0, 255).astype(np.uint8)


def host(model: Path, image: Array, **options: Any) -> Array:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(upscaler_module, "select_backend", select_backend)
        with Upscaler(model, backend="onnxruntime", precision="fp32", **options) as upscale:
            return upscale(image)


@pytest.mark.parametrize("size", [(90, 120), (61, 75), (33, 200), (1, 1), (5, 3)])
@pytest.mark.parametrize("schedule", [Schedule(), Schedule(tile=32), Schedule(tile=32, batch=4, slots=3)])
@pytest.mark.parametrize("model", ["exact", "approximate"])
def test_frames_equal_the_windows_of_the_host(
    machine: Machine, request: pytest.FixtureRequest, model: str, size: tuple[int, int], schedule: Schedule
) -> None:
    path, image = request.getfixturevalue(model), photo(*size)
    with Upscaler(path, precision="fp32", schedule=schedule) as upscale:
        for _ in range(2):  # directly, then as recorded
            large = upscale(image)
            np.testing.assert_array_equal(large, host(path, image, tile=schedule.tile))
            assert large.flags.c_contiguous
        assert upscale.stats.recomputed == 0
    assert all(shape[0] == machine.runs[0][2][0] for _, _, shape in machine.runs), "batches of one size"


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize("tile", [0, 32])
def test_launches_are_prepared_for_the_first_frame_alone(exact: Path, tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Preparing a launch takes the host ten times as long as launching."""
    first, second = photo(90, 120), photo(90, 120, seed=2)
    with Upscaler(exact, precision="fp32", schedule=Schedule(tile=tile, slots=1)) as upscale:
        upscale(first)
        prepared: list[Any] = []
        monkeypatch.setattr(load_warp(), "launch", lambda *arguments, **_: prepared.append(arguments))
        large = upscale(second)
        assert not prepared
    np.testing.assert_array_equal(large, host(exact, second, tile=tile))


@pytest.mark.usefixtures("machine")
def test_results_are_the_callers_own(exact: Path) -> None:
    images = [photo(40, 48, seed) for seed in range(24)]
    with Upscaler(exact, precision="fp32", schedule=Schedule(tile=32)) as upscale:
        kept = [upscale(image) for image in images]
        copies = [large.copy() for large in kept]
        first = kept[0][3:]
        del kept[::2]
        gc.collect()
        for image in images:
            upscale(image)
    np.testing.assert_array_equal(first, copies[0][3:])
    for large, copy in zip(kept, copies[1::2], strict=True):
        np.testing.assert_array_equal(large, copy)


@pytest.mark.usefixtures("machine")
def test_memory_of_results_is_used_again(exact: Path) -> None:
    with Upscaler(exact, precision="fp32", schedule=Schedule(slots=1)) as upscale:
        places = set()
        for seed in range(6):
            large = upscale(photo(40, 48, seed))
            places.add(large.__array_interface__["data"][0])
            del large
    assert len(places) == 1


@pytest.mark.parametrize("gpus", [(0,), (0, 1)])
def test_frames_are_in_flight_together_and_in_order(
    exact: Path, machine: Machine, gpus: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sr_deploy.device.gpu.survey", lambda: Survey((GPU("one", "8.9"), GPU("two", "8.9"))))
    with Upscaler(exact, precision="fp32", schedule=Schedule(slots=2), gpus=gpus) as upscale:
        assert upscale.concurrency == 2 * len(gpus)
        images = [photo(24, 32, seed) for seed in range(4 * upscale.concurrency)]
        expected = [host(exact, image) for image in images]
        inside, most, lock = 0, 0, threading.Lock()

        def linger(_: int) -> None:
            nonlocal inside, most
            with lock:
                inside += 1
                most = max(most, inside)
            time.sleep(0.02)
            with lock:
                inside -= 1

        machine.before = linger
        written: list[Array] = []
        run_pipeline(images, upscale, written.append, workers=upscale.concurrency)
    np.testing.assert_array_equal(written, expected)
    assert {gpu for gpu, _, _ in machine.runs} == set(gpus)
    assert most >= 2


def test_more_threads_than_slots_wait(exact: Path, machine: Machine) -> None:
    machine.contexts = 1
    with Upscaler(exact, precision="fp32", schedule=Schedule(slots=3)) as upscale, ThreadPoolExecutor(6) as pool:
        images = [photo(24, 32, seed) for seed in range(18)]
        for image, large in zip(images, pool.map(upscale, images), strict=True):
            np.testing.assert_array_equal(large, host(exact, image))


def spoil_in(*precisions: str) -> Callable[[str, dict[str, Array]], None]:
    """Makes tiles unhealthy that have a white pixel, in these precisions."""

    def spoil(precision: str, results: dict[str, Array]) -> None:
        if precision not in precisions:
            return
        if LEVELS in results:
            results[LEVELS][results[LEVELS].max(axis=(1, 2, 3)) > 250, 5, 7, 3] = np.nan
            return
        white = results[OUTPUT].max(axis=(1, 2, 3)) > 250
        results[HEALTH][white] = np.nan
        results[OUTPUT][white] = 0

    return spoil


def photo_with_white() -> Array:
    image = photo(100, 140) // 2
    image[4:10, 4:10] = 255
    return image


@pytest.mark.parametrize("tile", [0, 32])
def test_an_unhealthy_tile_is_computed_again_in_fp32(tmp_path: Path, exact: Path, machine: Machine, tile: int) -> None:
    image = photo_with_white()
    machine.spoil = spoil_in("fp16")
    with Upscaler(two_precisions(tmp_path), schedule=Schedule(tile=tile)) as upscale:
        large = upscale(image)
        tiles = len(plan_tiles(100, 140, tile=tile, halo=5, blend=False))
        assert (upscale.stats.tiles, upscale.stats.recomputed, upscale.stats.replaced) == (tiles, 1, 0)
    assert np.abs(large.astype(int) - host(exact, image)).max() <= 1
    assert [precision for _, precision, _ in machine.runs].count("fp32") == 1


def test_a_tile_that_stays_unhealthy_is_an_error_or_bicubic(tmp_path: Path, machine: Machine) -> None:
    image, bundle = photo_with_white(), two_precisions(tmp_path)
    machine.spoil = spoil_in("fp16", "fp32")
    with Upscaler(bundle) as upscale, pytest.raises(UnhealthyOutputError, match="fp16 and fp32 for the tile x=0 y=0 140x100"):
        upscale(image)
    with Upscaler(bundle, on_failure="bicubic") as upscale:
        large = upscale(image)
        assert upscale.stats.replaced == 1
    assert abs(float(large.mean()) - float(image.mean())) < 1


def two_precisions(folder: Path) -> Path:
    """A bundle with an fp32 and an fp16 graph of the network `exact`."""
    folder = folder / "bundle"
    folder.mkdir()
    graphs = {}
    for precision, float_type in (("fp32", onnx.TensorProto.FLOAT), ("fp16", onnx.TensorProto.FLOAT16)):
        path = save(image_graph(scale=2, depth=4, float_type=float_type), folder, f"{precision}.onnx")
        graphs[precision] = GraphCard(path.name, precision, sha256_of(path), 20)
    Bundle(folder, ModelCard("two", "test", 2, 3, tiling="exact", halo=5, activation_bytes=100), graphs).write_card()
    return folder


@pytest.mark.usefixtures("machine")
def test_memory_that_runs_out_means_smaller_tiles(exact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image, tried = photo(200, 200), []
    build = frames_module.FrameRunner.__init__

    def scarce(self: FrameRunner, engines: Any, tiling: Any, *args: Any, **options: Any) -> None:
        tried.append(tiling.window)
        if max(tiling.window) > 100:
            raise OutOfMemoryError("no memory")
        build(self, engines, tiling, *args, **options)

    monkeypatch.setattr(frames_module.FrameRunner, "__init__", scarce)
    with Upscaler(exact, precision="fp32") as upscale:
        np.testing.assert_array_equal(upscale(image), host(exact, image))
    assert tried[0] == (200, 200) and max(tried[-1]) <= 100


def test_what_an_engine_takes_at_most_and_at_least_is_kept(exact: Path, machine: Machine) -> None:
    machine.limits = (1, 64, 64, 3), (4, 96, 128, 3)
    for size in [(200, 300), (96, 128), (20, 300), (1, 1)]:
        image = photo(*size)
        padding = [(0, max(0, 64 - side)) for side in size]
        expected = host(exact, np.pad(image, (*padding, (0, 0)), mode="symmetric"))
        with Upscaler(exact, precision="fp32", schedule=Schedule(batch=3)) as upscale:
            np.testing.assert_array_equal(upscale(image), expected[: 2 * size[0], : 2 * size[1]])
    for _, _, (batch, height, width, _) in machine.runs:
        assert batch <= 4 and 64 <= height <= 96 and 64 <= width <= 128


def test_an_engine_that_fails_leaves_the_slot_usable(exact: Path, machine: Machine) -> None:
    def fail(_: int) -> None:
        machine.before = lambda _: None
        raise EngineError("gone")

    image = photo(24, 32)
    with Upscaler(exact, precision="fp32", schedule=Schedule(slots=1)) as upscale:
        machine.before = fail
        with pytest.raises(EngineError, match="gone"):
            upscale(image)
        np.testing.assert_array_equal(upscale(image), host(exact, image))


@pytest.mark.parametrize("form", [to_pixel_form, to_planes_form])
def test_brightness_and_health_are_those_of_the_tiles(form: Callable[..., onnx.ModelProto]) -> None:
    model = image_graph(scale=2, depth=4)
    image = photo(50, 70)
    tiling = plan_tiles(50, 70, tile=32, halo=8, blend=False)
    backend = MachineBackend("machine", "function", "cuda", "")
    with (
        backend.open(form(model).SerializeToString(), precision="fp32", threads=1) as engine,
        open_engine(to_pixel_form(model), backend="onnxruntime") as reference,
    ):
        _, health = FrameRunner([engine], tiling, (50, 70), scale=2, batch=2).run(image)
        for index, (row, column) in enumerate(tiling):
            tile = image[row.start : row.start + tiling.window[0], column.start : column.start + tiling.window[1]]
            assert health.input[index] == pytest.approx(tile.mean() / 255, rel=1e-5)
            alone = reference.run({INPUT: np.ascontiguousarray(tile)[None]})
            rounded = 0.0 if form is to_pixel_form else 1e-4  # the pixel form takes the mean of whole numbers
            assert health.output[index] == pytest.approx(float(alone[HEALTH][0]), rel=1e-5, abs=rounded)


def through(form: str, model: Any, image: Array, precision: str) -> Array:
    """The frame over the stand-in for a GPU."""
    with pytest.MonkeyPatch.context() as patch:
        backend = MachineBackend("machine", "function", "cuda", "", planes=form == "planes")
        patch.setattr(upscaler_module, "select_backend", lambda *_, **__: backend)
        patch.setattr(frames_module, "free_memory", lambda _: 1 << 30)
        with Upscaler(model, precision=precision) as upscale:
            large = upscale(image)
            assert (upscale.stats.tiles, upscale.stats.recomputed) == (1, 0)
            return large


@pytest.mark.parametrize("name", ["fast-x2", "fast-x4", "quality-small-x2", "quality-small-x4"])
def test_networks_of_the_box_give_the_same_bytes_in_both_forms_and_on_the_host(name: str) -> None:
    """The fast ones end in an addition and give planes, the others in a convolution and give levels."""
    model, image = MODELS / name, photo(61, 75)
    large = through("planes", model, image, "fp32")
    np.testing.assert_array_equal(large, through("pixels", model, image, "fp32"))
    np.testing.assert_array_equal(large, host(model, image))


@pytest.mark.parametrize("name", ["fast-x4", "photo-x4"])
def test_in_fp16_the_forms_differ_by_one_and_no_more_than_from_fp32(name: str) -> None:
    """The kernel rounds k/255 to fp16 once; a graph that ONNX Runtime runs on the CPU rounds its result only in planes form."""
    model, image = MODELS / name, photo(61, 75)
    planes, pixels = (through(form, model, image, "fp16").astype(int) for form in ("planes", "pixels"))
    exact = host(model, image)
    for found, expected in ((planes, pixels), (planes, exact), (pixels, exact)):
        difference = np.abs(found - expected)
        assert difference.max() == 1
        assert (difference > 0).mean() < 0.06


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize("tile", [0, 32])
@pytest.mark.parametrize("size", [(64, 90), (1, 1), (33, 47)])
def test_bytes_on_the_device_equal_those_of_the_host(exact: Path, size: tuple[int, int], tile: int) -> None:
    images = np.stack([photo(*size, seed) for seed in (1, 2)])
    with Upscaler(exact, precision="fp32", schedule=Schedule(tile=tile)) as upscale:
        large = upscale.on_device(Device("cpu").array(images))
        assert large.shape == (2, 2 * size[0], 2 * size[1], 3)
        np.testing.assert_array_equal(large.numpy(), [upscale(image) for image in images])
        single = upscale.on_device(Device("cpu").array(images[0]))
        np.testing.assert_array_equal(single.numpy(), large.numpy()[0])


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize("tile", [0, 32])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_floats_on_the_device_are_not_rounded_to_bytes(tmp_path: Path, exact: Path, dtype: str, tile: int) -> None:
    image = np.random.default_rng(3).random((3, 64, 90), dtype=np.float32).astype(dtype)
    with Upscaler(two_precisions(tmp_path), schedule=Schedule(tile=tile)) as upscale:
        large = upscale.on_device(Device("cpu").array(image)).numpy()
    assert (large.shape, large.dtype) == ((3, 128, 180), np.dtype(dtype))
    expected = host(exact, np.ascontiguousarray(image.astype(np.float32).transpose(1, 2, 0))).transpose(2, 0, 1)
    np.testing.assert_allclose(large, expected, atol=2e-3 if dtype == "float16" else 1e-5)
    assert len(np.unique(large)) > 256


@pytest.mark.usefixtures("machine")
def test_tensors_of_torch_go_in_and_out_without_a_copy(exact: Path) -> None:
    torch = pytest.importorskip("torch")
    image = torch.from_numpy(photo(40, 60))
    with Upscaler(exact, precision="fp32") as upscale:
        large = torch.from_dlpack(upscale.on_device(image))
        strided = upscale.on_device(torch.from_numpy(photo(60, 40)).transpose(0, 1))
        np.testing.assert_array_equal(large.numpy(), upscale(photo(40, 60)))
        np.testing.assert_array_equal(strided.numpy(), upscale(np.ascontiguousarray(photo(60, 40).transpose(1, 0, 2))))


def test_a_bad_tile_on_the_device_is_computed_again(tmp_path: Path, exact: Path, machine: Machine) -> None:
    machine.spoil = spoil_in("fp16")
    with Upscaler(two_precisions(tmp_path), schedule=Schedule(tile=32)) as upscale:
        large = upscale.on_device(Device("cpu").array(photo_with_white()))
        assert upscale.stats.recomputed == 1
    assert np.abs(large.numpy().astype(int) - host(exact, photo_with_white())).max() <= 1


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((3, 8, 8), np.uint8),
        np.zeros((8, 8, 3), np.float32),
        np.zeros((0, 8, 3), np.uint8),
        np.zeros((8, 8, 3), np.float64),
        "text",
    ],
)
def test_what_is_no_image_is_refused(exact: Path, wrong: Any) -> None:
    with Upscaler(exact, precision="fp32") as upscale, pytest.raises(FeedError):
        upscale.on_device(wrong)


@pytest.mark.usefixtures("machine")
def test_a_closed_upscaler_refuses_arrays_of_the_host_and_of_the_device(exact: Path) -> None:
    image = photo(8, 8)
    with Upscaler(exact, precision="fp32") as upscale:
        upscale(image)
        upscale.on_device(Device("cpu").array(image))
    for call in (upscale, upscale.on_device):
        with pytest.raises(UsageError, match="is closed; open a new one"):
            call(image)


def test_without_a_gpu_arrays_of_one_are_refused(exact: Path) -> None:
    with Upscaler(exact, backend="onnxruntime") as upscale, pytest.raises(UsageError, match="numpy arrays"):
        upscale.on_device(photo(8, 8))


def test_frames_of_several_sizes_never_share_a_context(exact: Path, machine: Machine) -> None:
    used: set[int] = set()
    engines: list[DeviceEngine] = []
    build = slots.Context.__init__

    def note(self: Any, engine: DeviceEngine, index: int, *args: Any, **options: Any) -> None:
        used.add(index)
        engines.append(engine)
        build(self, engine, index, *args, **options)

    machine.contexts = 8
    sizes = [(24, 32), (40, 20), (33, 21)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slots.Context, "__init__", note)
        with Upscaler(exact, precision="fp32", schedule=Schedule(slots=2)) as upscale, ThreadPoolExecutor(4) as pool:
            images = [photo(*size) for size in sizes * 4]
            for image, large in zip(images, pool.map(upscale, images), strict=True):
                np.testing.assert_array_equal(large, host(exact, image))
            upscale(photo(*sizes[0])), upscale(photo(*sizes[1]))
            taken = slots.CONTEXTS._taken[engines[0]]
            assert 2 <= len(taken) <= 4, "two sizes are kept, with at most two slots each"
    assert len(used) >= 4


def test_an_engine_for_small_batches_gets_small_batches(exact: Path, machine: Machine) -> None:
    machine.limits = (1, 16, 16, 3), (2, 64, 64, 3)
    with Upscaler(exact, precision="fp32", schedule=Schedule(tile=32, batch=8)) as upscale:
        np.testing.assert_array_equal(upscale(photo(100, 120)), host(exact, photo(100, 120), tile=32))
    assert {batch for _, _, (batch, *_) in machine.runs} == {2}
