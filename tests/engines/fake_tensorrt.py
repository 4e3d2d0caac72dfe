"""A library with the interface of both TensorRT bindings, as far as sr-deploy uses it, that compiles nothing.

It has what our code may call and nothing else, so a call that is not here fails; test_tensorrt_bindings.py compares every
class, argument and member with the real bindings.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
from onnx import ModelProto, helper

RTX_ONLY = {
    "IBuilderConfig": {"num_compute_capabilities", "set_compute_capability"},
    "Runtime": {"get_engine_validity"},
    "ComputeCapability": {"*"},
    "EngineValidity": {"*"},
    "EngineInvalidityDiagnostics": {"*"},
}


class Severity(enum.IntEnum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3
    VERBOSE = 4


class ILogger:
    INTERNAL_ERROR = Severity.INTERNAL_ERROR
    ERROR = Severity.ERROR
    WARNING = Severity.WARNING
    INFO = Severity.INFO
    VERBOSE = Severity.VERBOSE

    def __init__(self) -> None: ...

    def log(self, severity: Severity, msg: str) -> None:
        raise NotImplementedError


class IProgressMonitor:
    def __init__(self) -> None: ...

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None: ...

    def step_complete(self, phase_name: str, step: int) -> bool:
        raise NotImplementedError

    def phase_finish(self, phase_name: str) -> None: ...


class NetworkDefinitionCreationFlag(enum.IntEnum):
    STRONGLY_TYPED = 1


class BuilderFlag(enum.IntEnum):
    TF32 = 7


class MemoryPoolType(enum.IntEnum):
    WORKSPACE = 0


class ComputeCapability(enum.IntEnum):
    NONE = 0
    CURRENT = 1
    SM75 = 75
    SM80 = 80
    SM86 = 86
    SM89 = 89
    SM120 = 120


class EngineValidity(enum.IntEnum):
    VALID = 0
    SUBOPTIMAL = 1
    INVALID = 2


class EngineInvalidityDiagnostics(enum.IntEnum):
    VERSION_MISMATCH = 1
    UNSUPPORTED_CC = 2
    MALFORMED_ENGINE = 32
    CUDA_ERROR = 64


class ITensor:
    def __init__(self, name: str, dtype: Any, shape: tuple[int, ...]) -> None:
        self._name, self._dtype, self._shape = name, dtype, shape

    @property
    def name(self) -> str:
        return self._name

    @property
    def dtype(self) -> Any:
        return self._dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self._shape

    @shape.setter
    def shape(self, shape: tuple[int, ...]) -> None:
        self._shape = shape


class INetworkDefinition:
    def __init__(self) -> None:
        self._inputs: list[ITensor] = []
        self._outputs: list[ITensor] = []
        self._graph = b""

    @property
    def num_inputs(self) -> int:
        return len(self._inputs)

    @property
    def num_outputs(self) -> int:
        return len(self._outputs)

    def get_input(self, index: int) -> ITensor:
        return self._inputs[index]

    def get_output(self, index: int) -> ITensor:
        return self._outputs[index]


class ParserError:
    def desc(self) -> str:
        return "Assertion failed: no\n such operator"

    def node_name(self) -> str:
        return "nz"

    def node_operator(self) -> str:
        return "NonZero"


class OnnxParser:
    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
        self._network, self._logger = network, logger
        self._errors: list[ParserError] = []

    def parse(self, model: bytes, path: str | None = None) -> bool:
        del path
        graph = ModelProto.FromString(model).graph
        if any(node.op_type == "NonZero" for node in graph.node):
            self._errors.append(ParserError())
            return False
        self._network._graph = model
        for values, tensors in ((graph.input, self._network._inputs), (graph.output, self._network._outputs)):
            for value in values:
                kind = value.type.tensor_type
                shape = tuple(dim.dim_value or -1 for dim in kind.shape.dim)
                tensors.append(ITensor(value.name, kind.elem_type, shape))
        return True

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> ParserError:
        return self._errors[index]


class IOptimizationProfile:
    def __init__(self) -> None:
        self._good = False

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
        del input
        self._good = all(a <= b <= c for a, b, c in zip(min, opt, max, strict=True))

    def __bool__(self) -> bool:
        return self._good


class ITimingCache:
    def __init__(self, contents: bytes) -> None:
        self._contents = contents

    def serialize(self) -> bytes:
        return self._contents


class IBuilderConfig:
    refused: ComputeCapability | None = None
    """What a test wants set_compute_capability to refuse."""

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}
        self._timing_cache: ITimingCache | None = None
        self._capabilities: list[ComputeCapability] = []

    def clear_flag(self, flag: BuilderFlag) -> None:
        self._values["cleared"] = flag

    def set_memory_pool_limit(self, pool: MemoryPoolType, pool_size: int) -> None:
        self._values[pool.name] = pool_size

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        return 0 if profile else -1

    def set_compute_capability(self, compute_capability: ComputeCapability, index: int) -> bool:
        self._capabilities.insert(index, compute_capability)
        return compute_capability != self.refused

    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache | None:
        return ITimingCache(serialized_timing_cache)

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        if cache._contents.startswith(b"other machine") and not ignore_mismatch:
            return False
        self._timing_cache = cache
        return True

    def get_timing_cache(self) -> ITimingCache | None:
        return self._timing_cache


def _setting(name: str) -> property:
    return property(lambda self: self._values[name], lambda self, value: self._values.__setitem__(name, value))


for _name in ("max_aux_streams", "builder_optimization_level", "progress_monitor", "num_compute_capabilities"):
    setattr(IBuilderConfig, _name, _setting(_name))


class Builder:
    on_build: Callable[[IBuilderConfig, ILogger], bytes | None] | None = None
    """What a test wants to happen inside build_serialized_network."""

    config_type: type[IBuilderConfig] = IBuilderConfig

    def __init__(self, logger: ILogger) -> None:
        self._logger = logger

    def create_network(self, flags: int = 0) -> INetworkDefinition:
        assert flags == 1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED
        return INetworkDefinition()

    def create_builder_config(self) -> IBuilderConfig:
        return self.config_type()

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile()

    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> bytes | None:
        monitor = config.progress_monitor  # type: ignore[attr-defined]
        monitor.phase_start("Building engine", None, 2)
        for step in range(2):
            monitor.phase_start("Tactics", "Building engine", 4)
            for inner in range(4):
                if not monitor.step_complete("Tactics", inner):
                    self._logger.log(Severity.ERROR, "Build canceled by user")
                    return None
            monitor.phase_finish("Tactics")
            monitor.step_complete("Building engine", step)
        monitor.phase_finish("Building engine")
        if config._timing_cache is not None:
            config._timing_cache._contents += b"timed "
        if type(self).on_build is not None:
            return type(self).on_build(config, self._logger)
        return b"engine " + hashlib.sha256(network._graph).digest()


class ICudaEngine:
    pass


class Runtime:
    def __init__(self, logger: ILogger) -> None:
        self._logger = logger

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        if serialized_engine.startswith(b"engine "):
            return ICudaEngine()
        self._logger.log(Severity.ERROR, "magic tag does not match")
        return None

    def get_engine_validity(self, buffer: bytes) -> tuple[EngineValidity, int]:
        if buffer.startswith(b"engine "):
            return EngineValidity.VALID, 0
        return EngineValidity.INVALID, EngineInvalidityDiagnostics.MALFORMED_ENGINE | EngineInvalidityDiagnostics.CUDA_ERROR


def nptype(trt_type: Any) -> Any:
    return np.dtype(helper.tensor_dtype_to_np_dtype(trt_type)).type


CLASSES = (
    ILogger,
    IProgressMonitor,
    NetworkDefinitionCreationFlag,
    BuilderFlag,
    MemoryPoolType,
    ComputeCapability,
    EngineValidity,
    EngineInvalidityDiagnostics,
    ITensor,
    INetworkDefinition,
    ParserError,
    OnnxParser,
    IOptimizationProfile,
    ITimingCache,
    IBuilderConfig,
    Builder,
    Runtime,
)


def fake_module(*, rtx: bool, version: str = "1.2.3") -> Any:
    """A new module, with classes of its own, that lacks what the other flavour alone has."""
    module: Any = ModuleType("fake_tensorrt")
    module.__version__ = version
    module.nptype = nptype
    for kind in CLASSES:
        if not rtx and RTX_ONLY.get(kind.__name__) == {"*"}:
            continue
        own = kind if issubclass(kind, enum.Enum) else type(kind.__name__, (kind,), {})
        for name in () if rtx else RTX_ONLY.get(kind.__name__, ()):
            setattr(own, name, property(_absent))
        setattr(module, kind.__name__, own)
    module.Builder.config_type = module.IBuilderConfig
    return module


def _absent(config: object) -> Any:
    del config
    raise AttributeError("only TensorRT for RTX has this")
