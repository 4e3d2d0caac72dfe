"""What TensorRT and TensorRT for RTX run on: asked of the libraries themselves where their lists do not name a GPU."""

from __future__ import annotations

import functools
from types import ModuleType

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper

from sr_deploy.device import gpu
from sr_deploy.device.gpu import GPU
from sr_deploy.engines.tensorrt import library as libraries
from sr_deploy.engines.tensorrt.compile import CURRENT, compile_engine
from sr_deploy.engines.tensorrt.library import Flavour, Library
from sr_deploy.errors import BackendUnavailableError, EngineError, OutOfMemoryError

WAYS: dict[str, tuple[str, ...]] = {"without targets": (), "for the current GPU": (CURRENT,)}
"""How to build for a GPU that is not listed, in this order. NVIDIA names engines without targets portable to later GPUs."""

_SHAPE = (1, 3, 16, 16)


def why_not_run(flavour: Flavour) -> str:
    """Why engines of that flavour do not run on this machine, and what to do, in one line; '' when they do."""
    machine = gpu.survey()
    problems = [f"{machine.problem}; {machine.remedy}"] if machine.problem else []
    try:
        library = libraries.load_library(flavour)
        problems += [why_not_for(library, found) for found in machine.gpus[:1]]
    except BackendUnavailableError as exc:
        problems.append(str(exc))
    cure = "--backend openvino" if machine.problem else "--backend onnxruntime-cuda or openvino"
    missing = [problem for problem in problems if problem]
    return f"backend '{flavour.name}': {'; '.join(missing)}; or use {cure}" if missing else ""


def why_not_for(library: Library, found: GPU) -> str:
    """Why the library has nothing for that GPU, '' when it has."""
    try:
        targets_for(library, found)
    except (BackendUnavailableError, OutOfMemoryError) as exc:
        return str(exc)
    return ""


def targets_for(library: Library, found: GPU) -> tuple[str, ...]:
    """The compute capabilities to build for, so that engines run on that GPU; none leaves the choice to the library.

    For a GPU that TensorRT for RTX does not list, a small engine is built in each of WAYS and loaded; the GPU must be the
    current one. What came of it is remembered as long as the process lives.

    Raises: BackendUnavailableError with what the library said; OutOfMemoryError.
    """
    if not library.flavour.builds_ahead:
        return ()
    if found.capability in library.capabilities():
        return (found.capability,)
    refusals = _refusals(library.module, library.flavour, found)
    for way, targets in WAYS.items():
        if not refusals[way]:
            return targets
    known, told = ", ".join(library.capabilities()), "; ".join(f"built {way}: {why}" for way, why in refusals.items())
    raise BackendUnavailableError(
        f"{library.flavour.title} {library.version} does not run on {found}, it lists {known} ({told}); use TensorRT there"
    )


@functools.cache
def _refusals(module: ModuleType, flavour: Flavour, found: GPU) -> dict[str, str]:
    """By way, why the library does not load what it built; '' at the first that it does."""
    del found
    library = Library(flavour, module)
    refusals: dict[str, str] = {}
    for way, targets in WAYS.items():
        refusals[way] = _why_refused(library, targets)
        if not refusals[way]:
            break
    return refusals


def _why_refused(library: Library, targets: tuple[str, ...]) -> str:
    graph = _small_graph()
    try:
        built = compile_engine(graph, library, shapes={graph.graph.input[0].name: (_SHAPE,) * 3}, capabilities=targets)
        return why_not_loaded(built.engine, library)
    except OutOfMemoryError:
        raise
    except EngineError as exc:
        return str(exc)


def why_not_loaded(engine: bytes, library: Library) -> str:
    """Why the library does not load a serialized engine on the current GPU, '' when it does.

    Raises: EngineError, OutOfMemoryError.
    """
    module = library.module
    with library.translated("does not load the engine"):
        runtime = module.Runtime(library.logger)
        validity, diagnostics = runtime.get_engine_validity(engine)
        if validity == module.EngineValidity.INVALID:
            return f"the engine is not valid here ({_reasons(library, int(diagnostics)) or 'it says nothing more'})"
        if runtime.deserialize_cuda_engine(engine) is None:
            return str(library.error("does not load the engine"))
    return ""


def _reasons(library: Library, diagnostics: int) -> str:
    members = library.module.EngineInvalidityDiagnostics.__members__
    return ", ".join(name.lower().replace("_", " ") for name, bit in members.items() if diagnostics & int(bit))


def _small_graph() -> ModelProto:
    """One convolution in fp16."""
    weights = onnx.numpy_helper.from_array(np.full((3, 3, 3, 3), 1 / 27, np.float16), "weights")
    source, target = (helper.make_tensor_value_info(name, TensorProto.FLOAT16, _SHAPE) for name in ("input", "output"))
    node = helper.make_node("Conv", ["input", "weights"], ["output"], pads=[1] * 4)
    graph = helper.make_graph([node], "small", [source], [target], [weights])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
