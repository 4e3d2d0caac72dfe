"""What both flavours of the library are asked for, and how their failures are told, on a fake of their interface."""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from sr_deploy.engines.tensorrt.compile import compile_engine, why_stale
from sr_deploy.engines.tensorrt.library import TENSORRT, TENSORRT_RTX, Flavour, Library, flavour_of, load_library
from sr_deploy.errors import BackendUnavailableError, EngineError, OutOfMemoryError, UsageError
from tests.engines.tensorrt.fake_tensorrt import ComputeCapability, MemoryPoolType, Severity, fake_module
from tests.graphs import image_graph, save

SHAPE = (1, 3, 8, 8)
SHAPES = {"input": (SHAPE, SHAPE, SHAPE)}


@pytest.fixture(params=[TENSORRT, TENSORRT_RTX], ids=lambda flavour: flavour.name)
def library(request: pytest.FixtureRequest) -> Library:
    return Library(request.param, fake_module(rtx=request.param.builds_ahead))


@pytest.fixture
def tensorrt() -> Library:
    return Library(TENSORRT, fake_module(rtx=False))


def options_for(flavour: Flavour) -> dict[str, Any]:
    return {"shapes": SHAPES, "capabilities": ("8.6", "8.9") if flavour.builds_ahead else ()}


def test_one_code_path_serves_both(library: Library, tmp_path: Path) -> None:
    configs: list[Any] = []

    def look(config: Any, logger: Any) -> bytes:
        del logger
        configs.append(config)
        return b"engine x"

    library.module.Builder.on_build = staticmethod(look)
    path = save(image_graph(), tmp_path)
    result = compile_engine(path, library, workspace=3, optimization_level=4, **options_for(library.flavour))
    assert result.engine == b"engine x"
    assert str(result.inputs[0]) == "input float32[1, 3, 8, 8]"
    values = configs[0]._values
    assert (values["max_aux_streams"], values["cleared"], values["builder_optimization_level"]) == (0, 7, 4)
    assert values["RUNTIME_ACTIVATION_RESIZE_10_10"] is True
    assert values.get("set") == (library.module.BuilderFlag.REQUIRE_USER_ALLOCATION if library.flavour.builds_ahead else None)
    assert values[MemoryPoolType.WORKSPACE.name] == 3 << 20
    assert configs[0]._capabilities == (
        [ComputeCapability.SM86, ComputeCapability.SM89] if library.flavour.builds_ahead else []
    )
    assert (configs[0]._timing_cache is None) == library.flavour.builds_ahead


def test_the_timing_cache_goes_on_unless_it_is_of_another_machine(tensorrt: Library) -> None:
    first = compile_engine(image_graph(), tensorrt, shapes=SHAPES)
    assert first.timing_cache == b"timed "
    second = compile_engine(image_graph(), tensorrt, shapes=SHAPES, timing_cache=first.timing_cache)
    assert second.timing_cache == b"timed timed "
    foreign = compile_engine(image_graph(), tensorrt, shapes=SHAPES, timing_cache=b"other machine")
    assert foreign.timing_cache == b"timed "


def test_only_the_rtx_flavour_takes_compute_capabilities(tensorrt: Library) -> None:
    with pytest.raises(UsageError, match="builds for the GPU of this machine only"):
        compile_engine(image_graph(), tensorrt, shapes=SHAPES, capabilities=("8.6",))


def test_a_refused_compute_capability_is_named() -> None:
    library = Library(TENSORRT_RTX, fake_module(rtx=True))
    library.module.IBuilderConfig.refused = ComputeCapability.SM89
    with pytest.raises(EngineError, match=r"refuses compute capability 8\.9"):
        compile_engine(image_graph(), library, **options_for(TENSORRT_RTX))


def test_a_failed_build_ends_with_the_last_words_of_the_library(library: Library) -> None:
    def fail(config: Any, logger: Any) -> None:
        del config
        logger.log(Severity.WARNING, "mind the gap")
        for number in range(60):
            logger.log(Severity.ERROR, f"error {number}\n  of the library")
        logger.log(Severity.INFO, "nobody asked")

    library.module.Builder.on_build = staticmethod(fail)
    with pytest.raises(EngineError) as info:
        compile_engine(image_graph(), library, **options_for(library.flavour))
    words = "error 57 of the library; error 58 of the library; error 59 of the library"
    assert str(info.value) == f"{library.flavour.name} 1.2.3 cannot build the engine: {words}"


@pytest.mark.parametrize(("message", "kind"), [("CUDA out of memory", OutOfMemoryError), ("no kernel", EngineError)])
def test_an_exception_of_the_library_becomes_ours(message: str, kind: type[EngineError], library: Library) -> None:
    def fail(config: Any, logger: Any) -> None:
        del config, logger
        raise RuntimeError(f"{message}\nmore")

    library.module.Builder.on_build = staticmethod(fail)
    with pytest.raises(kind, match=message) as info:
        compile_engine(image_graph(), library, **options_for(library.flavour))
    assert type(info.value) is kind
    assert isinstance(info.value.__cause__, RuntimeError)


def test_words_of_an_earlier_failure_are_not_told_again(library: Library) -> None:
    library.logger.log(Severity.ERROR, "old news")

    def fail(config: Any, logger: Any) -> None:
        del config, logger

    library.module.Builder.on_build = staticmethod(fail)
    with pytest.raises(EngineError, match="it says nothing more"):
        compile_engine(image_graph(), library, **options_for(library.flavour))


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_build_at_its_next_step(number: int, library: Library) -> None:
    steps: list[float] = []
    delivered: list[int] = []

    def interrupt(phase: str, done: float) -> None:
        del phase
        steps.append(done)
        signal.raise_signal(number)

    earlier = signal.signal(number, lambda received, _: delivered.append(received))
    try:
        with pytest.raises(EngineError, match="Build canceled by user"):
            compile_engine(image_graph(), library, progress=interrupt, **options_for(library.flavour))
    finally:
        signal.signal(number, earlier)
    assert (steps, delivered) == ([0.0], [number])


def test_a_build_on_another_thread_leaves_signals_alone(library: Library) -> None:
    handlers: list[Any] = []
    thread = threading.Thread(
        target=compile_engine,
        args=(image_graph(), library),
        kwargs={**options_for(library.flavour), "progress": lambda *_: handlers.append(signal.getsignal(signal.SIGINT))},
    )
    thread.start()
    thread.join()
    assert set(handlers) == {signal.getsignal(signal.SIGINT)}


def test_a_stale_engine_is_told(library: Library) -> None:
    good = compile_engine(image_graph(), library, **options_for(library.flavour)).engine
    assert why_stale(good, library) == ""
    reason = why_stale(b"garbage", library)
    assert reason == "malformed engine" if library.flavour.builds_ahead else "magic tag does not match" in reason


@pytest.mark.parametrize("flavour", [TENSORRT, TENSORRT_RTX], ids=lambda flavour: flavour.name)
def test_a_missing_library_is_one_line_with_the_way_out(flavour: Flavour, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in flavour.modules:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(BackendUnavailableError) as info:
        load_library(flavour)
    assert flavour.install in str(info.value)
    assert flavour.title in str(info.value) and "\n" not in str(info.value)


def test_a_library_that_is_there_but_does_not_load_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> ModuleType:
        if name == "tensorrt":
            raise ModuleNotFoundError("No module named 'tensorrt'")
        raise ImportError("libnvinfer.so.11: cannot open shared object file\nand so on")

    monkeypatch.setattr("importlib.import_module", fail)
    with pytest.raises(
        BackendUnavailableError, match=r"cannot be loaded \(libnvinfer\.so\.11: cannot open shared object file\)"
    ):
        load_library(TENSORRT)


def test_backends_name_flavours() -> None:
    assert (flavour_of("tensorrt"), flavour_of("tensorrt-rtx")) == (TENSORRT, TENSORRT_RTX)
    with pytest.raises(UsageError, match="'openvino' compiles no engines"):
        flavour_of("openvino")
