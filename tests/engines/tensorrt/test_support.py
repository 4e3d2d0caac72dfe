"""What TensorRT for RTX is told to build for, on GPUs that its list names and on those that it does not."""

from __future__ import annotations

from typing import Any

import pytest

from sr_deploy.device.gpu import GPU, Survey
from sr_deploy.engines.tensorrt import library as tensorrt_library
from sr_deploy.engines.tensorrt.compile import CURRENT
from sr_deploy.engines.tensorrt.library import TENSORRT, TENSORRT_RTX, Library
from sr_deploy.engines.tensorrt.support import targets_for, why_not_for, why_not_run
from sr_deploy.errors import BackendUnavailableError, OutOfMemoryError
from tests.engines.tensorrt.fake_tensorrt import EngineInvalidityDiagnostics, EngineValidity, Severity, fake_module

L4, H100 = GPU("NVIDIA L4", "8.9"), GPU("NVIDIA H100", "9.0")
REFUSED = (EngineValidity.INVALID, EngineInvalidityDiagnostics.UNSUPPORTED_CC)


@pytest.fixture
def library() -> Library:
    return Library(TENSORRT_RTX, fake_module(rtx=True))


@pytest.fixture
def built_for(library: Library) -> list[list[str]]:
    """Compute capabilities of each build, by name."""
    builds: list[list[str]] = []
    build = library.module.Builder.build_serialized_network

    def look(self: Any, network: Any, config: Any) -> Any:
        builds.append([one.name for one in config._capabilities])
        return build(self, network, config)

    library.module.Builder.build_serialized_network = look
    return builds


def answer(library: Library, *answers: tuple[EngineValidity, int]) -> None:
    """What get_engine_validity says, one build after the other."""
    left = list(answers)
    library.module.Runtime.get_engine_validity = lambda *_: left.pop(0)


def test_a_listed_gpu_is_named(library: Library, built_for: list[list[str]]) -> None:
    assert targets_for(library, L4) == ("8.9",)
    assert targets_for(Library(TENSORRT, fake_module(rtx=False)), H100) == ()
    assert built_for == []


def test_another_gpu_gets_what_the_library_builds_by_itself(library: Library, built_for: list[list[str]]) -> None:
    assert targets_for(library, H100) == ()
    assert built_for == [[]]


def test_then_what_it_builds_for_the_current_gpu(library: Library, built_for: list[list[str]]) -> None:
    answer(library, REFUSED, (EngineValidity.SUBOPTIMAL, 0))
    assert targets_for(library, H100) == (CURRENT,)
    assert built_for == [[], ["CURRENT"]]


def test_only_then_it_is_refused_with_what_the_library_said(library: Library, built_for: list[list[str]]) -> None:
    answer(library, REFUSED, (EngineValidity.INVALID, 0))
    with pytest.raises(BackendUnavailableError) as info:
        targets_for(library, H100)
    assert str(info.value) == (
        "TensorRT for RTX 1.2.3 does not run on NVIDIA H100 (9.0), it lists 7.5, 8.0, 8.6, 8.9, 12.0 "
        "(built without targets: the engine is not valid here (unsupported cc); "
        "built for the current GPU: the engine is not valid here (it says nothing more)); use TensorRT there"
    )
    assert len(built_for) == 2


def test_an_engine_that_is_valid_and_does_not_load_counts_for_nothing(library: Library) -> None:
    def fail(self: Any, serialized_engine: bytes) -> None:
        del serialized_engine
        self._logger.log(Severity.ERROR, "no kernel for this device")

    library.module.Runtime.deserialize_cuda_engine = fail
    assert why_not_for(library, H100).count("does not load the engine: no kernel for this device") == 2


def test_a_build_that_fails_is_told(library: Library) -> None:
    def fail(config: Any, logger: Any) -> None:
        del config
        logger.log(Severity.ERROR, "unsupported device")

    library.module.Builder.on_build = staticmethod(fail)
    assert why_not_for(library, H100).count("cannot build the engine: unsupported device") == 2


def test_the_answer_is_remembered_for_the_gpu(library: Library, built_for: list[list[str]]) -> None:
    answer(library, REFUSED, REFUSED, (EngineValidity.VALID, 0))
    again = Library(TENSORRT_RTX, library.module)
    assert why_not_for(library, H100) == why_not_for(again, H100) != ""
    assert len(built_for) == 2
    assert targets_for(again, GPU("NVIDIA GB10", "12.9")) == ()
    assert len(built_for) == 3


def test_memory_that_runs_out_says_nothing_about_the_gpu(library: Library, built_for: list[list[str]]) -> None:
    def fail(config: Any, logger: Any) -> None:
        del config
        logger.log(Severity.ERROR, "Cuda Runtime (out of memory)")

    library.module.Builder.on_build = staticmethod(fail)
    with pytest.raises(OutOfMemoryError):
        targets_for(library, H100)
    assert "out of memory" in why_not_for(library, H100)
    library.module.Builder.on_build = None
    assert targets_for(library, H100) == ()
    assert len(built_for) == 3


def test_the_backend_runs_where_the_library_does(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sr_deploy.device.gpu.survey", lambda: Survey((H100,)))
    monkeypatch.setattr(tensorrt_library, "load_library", lambda _: library)
    assert why_not_run(TENSORRT_RTX) == ""
