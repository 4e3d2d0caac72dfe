"""A run finds the engine that `sr-deploy build` made, or builds one, on a fake of TensorRT's interface."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto

from sr_deploy.bundle import Bundle
from sr_deploy.card import GRAPH_METADATA_KEY, ModelCard, Part
from sr_deploy.device.device import Device
from sr_deploy.device.gpu import GPU, Survey
from sr_deploy.engines import BACKENDS, open_engine
from sr_deploy.engines.open import open_bundle
from sr_deploy.engines.pixels import INPUT, OUTPUT, load_float_form, load_pixel_form, to_refine_form
from sr_deploy.engines.tensorrt import library as tensorrt_library
from sr_deploy.engines.tensorrt import open as tensorrt_open
from sr_deploy.engines.tensorrt.build import build_engine, engine_graph, engine_shapes
from sr_deploy.engines.tensorrt.cache import EngineCache, default_folder
from sr_deploy.engines.tensorrt.engine import TensorRTEngine
from sr_deploy.engines.tensorrt.library import Flavour, Library
from sr_deploy.engines.tensorrt.open import open_graph, run_settings
from sr_deploy.engines.tensorrt.target import BuildSettings, load_target
from sr_deploy.errors import BackendUnavailableError, EngineError, OutOfMemoryError, UsageError
from sr_deploy.upscaling.upscaler import Upscaler
from tests.engines.tensorrt.fake_tensorrt import EngineValidity, Severity, fake_module
from tests.graphs import image_graph, masked_bundle, masked_graphs, save

L4, H200 = GPU("NVIDIA L4", "8.9"), GPU("NVIDIA H200", "9.0")
ROOT = Path(__file__).parents[3]
SIZES = {"min": "16x16", "opt": "64x32", "max": "128x128"}


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return open_bundle(save(image_graph(), tmp_path))


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def run(bundle: Bundle, library: Library, device: Device, tmp_path: Path, said: list[str]) -> Callable[..., TensorRTEngine]:
    def start(graph: ModelProto | None = None, gpu: GPU = L4) -> TensorRTEngine:
        return open_graph(
            graph or load_pixel_form(bundle, "fp32", cast_last=True),
            library,
            device,
            gpu,
            precision="fp32",
            search=[tmp_path / "engines", tmp_path / "own"],
            folder=tmp_path / "own",
            say=said.append,
        )

    return start


def settings_for(library: Library, **more: Any) -> BuildSettings:
    return BuildSettings(**SIZES, compute_capabilities=("8.6", "8.9") if library.flavour.builds_ahead else (), **more)


def refuse_to_build(library: Library) -> None:
    library.module.Builder.on_build = staticmethod(lambda *_: pytest.fail("built again"))


@pytest.mark.parametrize("pixels", [True, False])
def test_what_build_made_is_what_a_run_takes(
    run: Callable[..., TensorRTEngine], bundle: Bundle, library: Library, tmp_path: Path, said: list[str], pixels: bool
) -> None:
    build_engine(bundle, library, settings_for(library), folder=tmp_path / "engines", precision="fp32", pixels=pixels, gpu=L4)
    refuse_to_build(library)
    graph = load_pixel_form(bundle, "fp32", cast_last=True) if pixels else load_float_form(bundle, "fp32")
    with run(graph) as engine:
        (limits,) = engine.limits.values()
        assert limits == (((1, 16, 16, 3), (1, 128, 128, 3)) if pixels else ((1, 3, 16, 16), (1, 3, 128, 128)))
        assert engine.description == f"{library.flavour.name} fp32"
    assert said == [] and not (tmp_path / "own").exists()


@pytest.mark.parametrize("part", ["base", "refine"])
def test_what_build_made_of_a_mask_guided_network_is_taken_too(
    run: Callable[..., TensorRTEngine], library: Library, tmp_path: Path, said: list[str], part: Part
) -> None:
    (tmp_path / "masked").mkdir()
    masked = masked_bundle(tmp_path / "masked")
    settings = settings_for(library, batch=4)
    build_engine(masked, library, settings, folder=tmp_path / "engines", precision="fp32", part=part, gpu=L4)
    refuse_to_build(library)
    with run(load_pixel_form(masked, "fp32", part, cast_last=True)) as engine:
        (limits,) = engine.limits.values()
        quarter = 128 * 128 // 16 // 4
        assert limits == (((1, 16, 16, 3), (4, 128, 128, 3)) if part == "base" else ((1, 3, 6, 6), (quarter, 3, 6, 6)))
    assert said == []


def test_a_run_builds_refine_networks_for_a_quarter_of_an_images_patches(
    run: Callable[..., TensorRTEngine], tmp_path: Path
) -> None:
    (tmp_path / "masked").mkdir()
    masked = masked_bundle(tmp_path / "masked")
    with run(load_pixel_form(masked, "fp32", "refine", cast_last=True)) as engine:
        assert list(engine.limits.values()) == [((1, 3, 6, 6), (1920 * 1920 // 16 // 4, 3, 6, 6))]


def test_a_refine_network_without_a_card_takes_many_patches_too() -> None:
    _, graph = masked_graphs()
    shapes = engine_shapes(to_refine_form(graph), BuildSettings(opt="960x540", max="1920x1080"))
    assert shapes == {"patches": ((1, 3, 6, 6), (2880, 3, 6, 6), (14400, 3, 6, 6))}


def test_the_same_bytes_in_every_way(bundle: Bundle) -> None:
    for pixels in (True, False):
        graph = engine_graph(bundle, precision="fp32", pixels=pixels)
        again = ModelProto.FromString(engine_graph(bundle, precision="fp32", pixels=pixels).SerializeToString())
        assert tensorrt_open.graph_bytes(graph) == tensorrt_open.graph_bytes(again)


def test_an_engine_is_built_once(
    run: Callable[..., TensorRTEngine], bundle: Bundle, library: Library, tmp_path: Path, said: list[str]
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1, 64, 71, 3), dtype=np.uint8)
    with run() as engine, open_engine(load_pixel_form(bundle, "fp32", cast_last=True), backend="onnxruntime") as reference:
        np.testing.assert_array_equal(engine.run({INPUT: pixels})[OUTPUT], reference.run({INPUT: pixels})[OUTPUT])
    assert len(said) == 1 and said[0].startswith("building an engine of network for NVIDIA L4 (8.9) with ")
    (entry,) = EngineCache(tmp_path / "own").entries()
    assert entry.record is not None and entry.record.key.capabilities == (("8.9",) if library.flavour.builds_ahead else ())
    assert len(list((tmp_path / "own").glob("*.kernels"))) == int(library.flavour.compiles_at_run)
    refuse_to_build(library)
    with run() as engine:
        engine.run({INPUT: pixels})
    assert len(said) == 1


def test_what_an_engine_was_built_for_decides(run: Callable[..., TensorRTEngine], library: Library, said: list[str]) -> None:
    run().close()
    run(gpu=GPU("NVIDIA A10", "8.6")).close()
    run(gpu=H200).close()
    run(gpu=H200).close()
    library.version = "9.9.9"
    run().close()
    other = image_graph(noise=0.1)
    run(other).close()
    assert sum(text.startswith("building") for text in said) == len(said)
    assert len(said) == 5


def test_the_newest_engine_of_the_first_folder_is_taken(
    run: Callable[..., TensorRTEngine], bundle: Bundle, library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run().close()
    cache = EngineCache(tmp_path / "engines")
    times = iter(["2026-01-02T00:00:00+00:00", "2026-01-03T00:00:00+00:00", "2026-01-01T00:00:00+00:00"])
    clock = SimpleNamespace(now=lambda _: SimpleNamespace(isoformat=lambda timespec: next(times)))  # noqa: ARG005
    monkeypatch.setattr("sr_deploy.engines.tensorrt.cache.datetime", SimpleNamespace(datetime=clock, UTC=None))
    for side in ("32x32", "48x48", "40x40"):
        settings = settings_for(library)
        settings = BuildSettings(static=side, compute_capabilities=settings.compute_capabilities)
        build_engine(bundle, library, settings, folder=cache.folder, precision="fp32", gpu=L4)
    with run() as engine:
        assert engine.limits[INPUT][1] == (1, 48, 48, 3)


def test_a_damaged_engine_is_built_again(
    run: Callable[..., TensorRTEngine], library: Library, tmp_path: Path, said: list[str]
) -> None:
    run().close()
    (entry,) = EngineCache(tmp_path / "own").entries()
    entry.path.write_bytes(b"short")
    run().close()
    assert said[1].endswith("cannot be used (changed since it was built); building it again")
    assert said[2].startswith("building an engine")
    refuse_to_build(library)
    run().close()


def test_an_engine_that_the_library_does_not_load_is_built_again(
    run: Callable[..., TensorRTEngine], bundle: Bundle, library: Library, tmp_path: Path, said: list[str]
) -> None:
    folder = tmp_path / "engines"
    built = build_engine(bundle, library, settings_for(library), folder=folder, precision="fp32", gpu=L4)
    EngineCache(folder).store(built.record, b"an engine of another driver")
    run().close()
    assert "cannot be used" in said[0] and "magic tag does not match" in said[0]
    assert said[1].startswith("building an engine")


def test_memory_that_runs_out_while_loading_builds_nothing(
    run: Callable[..., TensorRTEngine], library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    run().close()
    refuse_to_build(library)

    def full(self: Any, serialized_engine: bytes) -> None:
        del serialized_engine
        self._logger.log(Severity.ERROR, "Cuda Runtime (out of memory)")

    monkeypatch.setattr(library.module.Runtime, "deserialize_cuda_engine", full)
    with pytest.raises(OutOfMemoryError):
        run()


def test_a_folder_that_cannot_be_made_is_told(run: Callable[..., TensorRTEngine], tmp_path: Path) -> None:
    (tmp_path / "own").write_text("a file")
    with pytest.raises(EngineError, match="own: cannot be made"):
        run()


@pytest.mark.parametrize("name", ["rtx", "datacenter"])
def test_a_run_builds_as_the_targets_do_and_from_smaller_images_on(name: str) -> None:
    target = load_target(ROOT / "engines" / f"{name}.toml")
    flavour = tensorrt_library.flavour_of(target.backend)
    card = ModelCard("n", "a", scale=4, channels=3, min_size=15, size_multiple=8)
    library = Library(flavour, fake_module(rtx=flavour.builds_ahead))
    settings = run_settings(card, library, L4)
    assert target.build is not None
    assert (settings.opt, settings.max, settings.batch) == (target.build.opt, target.build.max, target.build.batch)
    assert settings.min == "16x16"
    assert settings.compute_capabilities == (("8.9",) if flavour.builds_ahead else ())
    assert run_settings(ModelCard("n", "a", scale=4, channels=3, min_size=17, size_multiple=8), library, L4).min == "24x24"


def test_the_card_of_our_own_graphs_names_the_engine(
    run: Callable[..., TensorRTEngine], said: list[str], tmp_path: Path
) -> None:
    graph = image_graph()
    entry = graph.metadata_props.add()
    entry.key, entry.value = GRAPH_METADATA_KEY, ModelCard("rlfn-x2", "rlfn", scale=2, channels=3).to_json()
    bundle = open_bundle(save(graph, tmp_path, "ours.onnx"))
    run(load_pixel_form(bundle, "fp32", cast_last=True)).close()
    assert "of rlfn-x2 for" in said[0]
    (found,) = EngineCache(tmp_path / "own").entries()
    assert found.record is not None and (found.record.name, found.record.scale) == ("rlfn-x2", 2)


def test_sides_that_the_graph_fixes_stay(run: Callable[..., TensorRTEngine]) -> None:
    source = onnx.helper.make_tensor_value_info("input", 1, [1, 4, 2, 2])
    target = onnx.helper.make_tensor_value_info("output", 1, [1, 1, 4, 4])
    node = onnx.helper.make_node("DepthToSpace", ["input"], ["output"], blocksize=2)
    graph = onnx.helper.make_graph([node], "doctor", [source], [target])
    with run(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)) as engine:
        assert engine.run({"input": np.zeros((1, 4, 2, 2), np.float32)})["output"].shape == (1, 1, 4, 4)


def test_the_users_own_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "sr-deploy" / "engines"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    assert default_folder() == tmp_path / "home" / ".cache" / "sr-deploy" / "engines"
    monkeypatch.setattr("sr_deploy.files.sys", SimpleNamespace(platform="win32"))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert default_folder() == tmp_path / "local" / "sr-deploy" / "engines"


@pytest.fixture
def machine(library: Library, device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Three GPUs, on which this library is installed; the names of the devices that are opened, which are the CPU."""
    opened: list[str] = []

    def open_device(name: str) -> Device:
        opened.append(name)
        return device

    def load(flavour: Flavour) -> Library:
        if flavour is not library.flavour:
            raise BackendUnavailableError("not installed")
        return library

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("sr_deploy.device.gpu.survey", lambda: Survey((L4, GPU("NVIDIA A10", "8.6"), H200)))
    monkeypatch.setattr(tensorrt_library, "load_library", load)
    monkeypatch.setattr("sr_deploy.upscaling.gpu.schedules.load_library", load, raising=False)
    monkeypatch.setattr(tensorrt_open, "Device", open_device)
    return opened


def test_the_backend_opens_on_the_gpu_of_that_number(
    machine: list[str], library: Library, bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    backend = next(backend for backend in BACKENDS if backend.name == library.flavour.name)
    assert backend.cast_last and backend.usable_precisions() == ("fp16", "fp32")
    graph = load_pixel_form(bundle, "fp32", cast_last=True).SerializeToString()
    backend.open(graph, precision="fp32", threads=None, gpu=1).close()
    assert machine == ["cuda:1"]
    (entry,) = EngineCache(default_folder()).entries()
    assert entry.record is not None
    assert (entry.record.key.gpu, entry.record.key.capabilities) == (
        ("", ("8.6",)) if library.flavour.builds_ahead else ("NVIDIA A10 (8.6)", ())
    )
    assert "building an engine of network for NVIDIA A10 (8.6)" in caplog.text
    with pytest.raises(UsageError, match=r"no GPU 3; there are 0: NVIDIA L4 \(8\.9\), 1: NVIDIA A10 \(8\.6\), 2: "):
        backend.open(graph, precision="fp32", threads=None, gpu=3)
    with pytest.raises(EngineError, match="not in bf16"):
        backend.open(graph, precision="bf16", threads=None)
    if library.flavour.builds_ahead:
        library.module.Runtime.get_engine_validity = lambda *_: (EngineValidity.INVALID, 0)
        with pytest.raises(BackendUnavailableError, match="does not run on NVIDIA H200"):
            backend.open(graph, precision="fp32", threads=None, gpu=2)


@pytest.mark.parametrize(("shape", "dtype"), [((70, 80, 3), np.uint8), ((300, 2000, 3), np.uint8), ((66, 90, 3), np.uint16)])
@pytest.mark.usefixtures("machine")
def test_the_upscaler_gives_what_it_gives_on_the_cpu(
    library: Library, bundle: Bundle, shape: tuple[int, ...], dtype: Any
) -> None:
    pixels = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype=dtype)
    path = bundle.graph("fp32")
    with Upscaler(path, backend=library.flavour.name) as found, Upscaler(path, backend="onnxruntime") as expected:
        np.testing.assert_array_equal(found(pixels), expected(pixels))
