"""ONNX graph -> serialized TensorRT engine, by either library; which one is an argument."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto

from sr_deploy.engines import signals_wait
from sr_deploy.engines.engine import TensorSpec
from sr_deploy.engines.tensorrt.library import Flavour, Library
from sr_deploy.errors import EngineError, UsageError

ProfileShapes = Mapping[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]
"""Smallest, usual and largest shape by input name."""

BuildProgress = Callable[[str, float], None]
"""Called with the phase that runs, and the fraction of the whole that is done."""

FLAGS = ("strongly typed", "no TF32", "no auxiliary streams", "scratch memory by shape")
"""What every build sets: precision is the graph's alone, one stream is one stream, and small images need little memory."""

USER_ALLOCATION = "user allocation"
"""What TensorRT for RTX needs, so that a CUDA graph can record a run."""

CURRENT = "current"
"""In the place of a compute capability: that of the GPU here, whether TensorRT for RTX lists it or not."""

_STALE = ("VERSION_MISMATCH", "MALFORMED_ENGINE")


@dataclass(frozen=True)
class Compiled:
    """A serialized engine, what goes in and out, and the timing cache after the build where the library has one."""

    engine: bytes
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    timing_cache: bytes = b""


def compile_engine(
    graph: ModelProto | Path | bytes,
    library: Library,
    *,
    shapes: ProfileShapes,
    capabilities: Sequence[str] = (),
    workspace: int | None = None,
    optimization_level: int | None = None,
    timing_cache: bytes = b"",
    progress: BuildProgress | None = None,
) -> Compiled:
    """Compile `graph` with `library`.

    An input whose three shapes are equal becomes static. `capabilities` are compute capabilities such as '8.9', or CURRENT
    alone; only TensorRT for RTX takes them, and without any it builds what runs on most GPUs. `workspace` is in MB. Ctrl-C
    ends the build at its next step.

    Raises: UsageError for settings that the library does not take; OutOfMemoryError; EngineError with the library's words.
    """
    targets = _targets(library, capabilities)
    module = library.module
    phases = _Phases(progress)
    with library.translated("cannot build the engine"):
        builder = module.Builder(library.logger)
        network = builder.create_network(1 << int(module.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = _parse(library, network, _contents(graph))
        config = builder.create_builder_config()
        config.max_aux_streams = 0
        config.clear_flag(module.BuilderFlag.TF32)
        config.set_preview_feature(module.PreviewFeature.RUNTIME_ACTIVATION_RESIZE_10_10, True)
        if library.flavour.compiles_at_run:
            config.set_flag(module.BuilderFlag.REQUIRE_USER_ALLOCATION)
        if workspace is not None:
            config.set_memory_pool_limit(module.MemoryPoolType.WORKSPACE, workspace << 20)
        if optimization_level is not None:
            config.builder_optimization_level = optimization_level
        if targets:
            config.num_compute_capabilities = len(targets)
        for index, (name, target) in enumerate(targets.items()):
            if not config.set_compute_capability(target, index):
                raise library.error(f"refuses compute capability {name}")
        _set_shapes(library, builder, network, config, shapes)
        cache = _attach_timing_cache(library, config, timing_cache)
        monitor = _monitor(module, phases)
        config.progress_monitor = monitor
        with signals_wait(phases.end):
            engine = builder.build_serialized_network(network, config)
        phases.raise_failure()
        if engine is None:
            raise library.error("cannot build the engine")
        inputs = tuple(_spec(module, network.get_input(index)) for index in range(network.num_inputs))
        outputs = tuple(_spec(module, network.get_output(index)) for index in range(network.num_outputs))
        timings = b"" if cache is None else bytes(config.get_timing_cache().serialize())
        del parser
        return Compiled(bytes(engine), inputs, outputs, timings)


def flags_of(flavour: Flavour) -> tuple[str, ...]:
    """What a build sets, in words."""
    return (*FLAGS, USER_ALLOCATION) if flavour.compiles_at_run else FLAGS


def why_stale(engine: bytes, library: Library) -> str:
    """Why a serialized engine must be built again, '' when it is good or nothing speaks against it on this machine.

    TensorRT for RTX is asked without loading the engine, and its answers about driver and GPU are left out: building again
    would not change them. TensorRT loads the engine, which needs the GPU.
    """
    module = library.module
    with library.translated("cannot check the engine"):
        runtime = module.Runtime(library.logger)
        if not library.flavour.tells_validity:
            loaded = runtime.deserialize_cuda_engine(engine) is not None
            return "" if loaded else str(library.error("does not load it"))
        validity, diagnostics = runtime.get_engine_validity(engine)
        kinds = module.EngineInvalidityDiagnostics
        if validity != module.EngineValidity.INVALID:
            return ""
        return ", ".join(name.lower().replace("_", " ") for name in _STALE if int(diagnostics) & int(getattr(kinds, name)))


def require_listed(library: Library, capabilities: Sequence[str]) -> None:
    """Raises: UsageError unless TensorRT for RTX lists each of the compute capabilities, and there is one."""
    known = library.capabilities()
    unknown = [text for text in capabilities if text not in known]
    if unknown or not capabilities:
        what = f"compute capability {', '.join(unknown)} is unknown" if unknown else "no compute capability is given"
        raise UsageError(f"{library}: {what}; there are: {', '.join(known)}")


def _targets(library: Library, capabilities: Sequence[str]) -> dict[str, Any]:
    if not capabilities:
        return {}
    if not library.flavour.builds_ahead:
        raise UsageError(
            f"{library.flavour.title} builds for the GPU of this machine only; leave compute capabilities out, "
            "or build for them with TensorRT for RTX (`--target rtx`)"
        )
    if tuple(capabilities) == (CURRENT,):
        return {CURRENT: library.module.ComputeCapability.CURRENT}
    require_listed(library, capabilities)
    return {text: library.capabilities()[text] for text in capabilities}


def _contents(graph: ModelProto | Path | bytes) -> bytes:
    if isinstance(graph, bytes):
        return graph
    return graph.read_bytes() if isinstance(graph, Path) else graph.SerializeToString()


def _parse(library: Library, network: Any, graph: bytes) -> Any:
    """The parser, which owns the weights that the network reads until it is built."""
    parser = library.module.OnnxParser(network, library.logger)
    if not parser.parse(graph):
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        lines = [f"{_where(error)}{' '.join(error.desc().split())}" for error in errors]
        raise EngineError(f"{library} does not take the graph: {'; '.join(lines) or 'no reason given'}")
    return parser


def _where(error: Any) -> str:
    return f"node '{error.node_name()}' ({error.node_operator()}): " if error.node_operator() else ""


def _set_shapes(library: Library, builder: Any, network: Any, config: Any, shapes: ProfileShapes) -> None:
    names = {network.get_input(index).name: network.get_input(index) for index in range(network.num_inputs)}
    if set(names) != set(shapes):
        raise UsageError(f"shapes are given for {sorted(shapes)}, the graph has the inputs {sorted(names)}")
    profile = builder.create_optimization_profile()
    for name, (least, usual, largest) in shapes.items():
        if least == usual == largest:
            names[name].shape = usual
        profile.set_shape(name, least, usual, largest)
    if not profile or config.add_optimization_profile(profile) < 0:
        given = "; ".join(f"{name} {' '.join(map(str, three))}" for name, three in shapes.items())
        raise library.error(f"refuses the shapes {given}", "expected smallest <= usual <= largest in every dimension")


def _attach_timing_cache(library: Library, config: Any, earlier: bytes) -> Any:
    """The timing cache that the build fills; one of another machine or version is left behind."""
    if not library.flavour.has_timing_cache:
        return None
    cache = config.create_timing_cache(earlier)
    if cache is None or not config.set_timing_cache(cache, False):
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    return cache


def _spec(module: Any, tensor: Any) -> TensorSpec:
    return TensorSpec(tensor.name, np.dtype(module.nptype(tensor.dtype)), tuple(int(size) for size in tensor.shape))


class _Phases:
    """Nested phases of a build, as one fraction. Never raises: whatever happens here is kept until the library returned."""

    def __init__(self, progress: BuildProgress | None) -> None:
        self.stop = False
        self._progress = progress
        self._lock = threading.Lock()
        self._steps: dict[str, tuple[str | None, int]] = {}
        self._done: dict[str, int] = {}
        self._reached = 0.0
        self._failure: BaseException | None = None

    def end(self) -> None:
        """Let the build stop at its next step."""
        self.stop = True

    def start(self, name: str, parent: str | None, steps: int) -> None:
        with self._lock:
            self._steps[name], self._done[name] = (parent, max(steps, 1)), 0
        self._tell(name)

    def step(self, name: str, step: int) -> bool:
        """Whether to go on."""
        with self._lock:
            self._done[name] = step + 1
        self._tell(name)
        return not self.stop

    def finish(self, name: str) -> None:
        with self._lock:
            self._steps.pop(name, None)
            self._done.pop(name, None)

    def raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _tell(self, name: str) -> None:
        if self._progress is None or self.stop:
            return
        try:
            with self._lock:
                self._reached = max(self._reached, self._fraction())
            self._progress(name, self._reached)
        except BaseException as exc:
            self._failure, self.stop = exc, True

    def _fraction(self) -> float:
        """Of the root phase; a child phase fills one step of its parent."""
        share, current = 1.0, next((name for name, (parent, _) in self._steps.items() if parent not in self._steps), None)
        total = 0.0
        while current is not None:
            share /= self._steps[current][1]
            total += share * self._done[current]
            current = next((name for name, (parent, _) in self._steps.items() if parent == current), None)
        return min(total, 1.0)


def _monitor(module: Any, phases: _Phases) -> Any:
    class Monitor(module.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            module.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            phases.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return phases.step(phase_name, step)

        def phase_finish(self, phase_name: str) -> None:
            phases.finish(phase_name)

    return Monitor()
