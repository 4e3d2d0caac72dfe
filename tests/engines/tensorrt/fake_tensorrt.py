"""A library with the interface of both TensorRT bindings, as far as sr-deploy uses it, that runs graphs on the CPU.

It has what our code may call and nothing else, so a call that is not here fails; test_tensorrt_bindings.py compares every
class, argument and member with the real bindings.
"""

from __future__ import annotations

import base64
import ctypes
import enum
import json
import math
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
from onnx import ModelProto, helper

ALIGNMENT = 256
"""Of tensors and of scratch memory, in bytes."""

RTX_ONLY = {
    "BuilderFlag": {"REQUIRE_USER_ALLOCATION"},
    "IBuilderConfig": {"num_compute_capabilities", "set_compute_capability"},
    "Runtime": {"get_engine_validity"},
    "IExecutionContext": {"is_stream_capturable"},
    "IRuntimeConfig": {"create_runtime_cache", "set_runtime_cache", "dynamic_shapes_kernel_specialization_strategy"},
    "IRuntimeCache": {"*"},
    "DynamicShapesKernelSpecializationStrategy": {"*"},
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
    REQUIRE_USER_ALLOCATION = 24


class PreviewFeature(enum.IntEnum):
    RUNTIME_ACTIVATION_RESIZE_10_10 = 2


class TensorIOMode(enum.IntEnum):
    NONE = 0
    INPUT = 1
    OUTPUT = 2


class ExecutionContextAllocationStrategy(enum.IntEnum):
    STATIC = 0
    ON_PROFILE_CHANGE = 1
    USER_MANAGED = 2


class DynamicShapesKernelSpecializationStrategy(enum.IntEnum):
    LAZY = 0
    EAGER = 1
    NONE = 2


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
        self._shapes: dict[str, Any] = {}

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
        self._shapes[input] = [list(min), list(opt), list(max)]
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
        self._profile: IOptimizationProfile | None = None

    def set_flag(self, flag: BuilderFlag) -> None:
        self._values["set"] = flag

    def set_preview_feature(self, feature: PreviewFeature, enable: bool) -> None:
        self._values[feature.name] = enable

    def clear_flag(self, flag: BuilderFlag) -> None:
        self._values["cleared"] = flag

    def set_memory_pool_limit(self, pool: MemoryPoolType, pool_size: int) -> None:
        self._values[pool.name] = pool_size

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        self._profile = profile
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
        return serialized(network._graph, config._profile._shapes, "set" in config._values)


def serialized(graph: bytes, shapes: dict[str, Any], user_allocation: bool) -> bytes:
    """An engine: the graph itself, and its profile."""
    contents = {"graph": base64.b64encode(graph).decode(), "shapes": shapes, "user_allocation": user_allocation}
    return b"engine " + json.dumps(contents).encode()


class IRuntimeCache:
    environment = b"this GPU "
    """What a test wants cached kernels to be of."""

    def __init__(self) -> None:
        self._kernels: set[str] = set()

    def deserialize(self, blob: bytes) -> bool:
        if not bytes(blob).startswith(self.environment):
            return False
        self._kernels = set(json.loads(bytes(blob).removeprefix(self.environment)))
        return True

    def serialize(self) -> bytes:
        return self.environment + json.dumps(sorted(self._kernels)).encode()


class IRuntimeConfig:
    cache_type: type[IRuntimeCache] = IRuntimeCache

    def __init__(self) -> None:
        self._strategy = ExecutionContextAllocationStrategy.STATIC
        self._specialization = DynamicShapesKernelSpecializationStrategy.LAZY
        self._cache: IRuntimeCache | None = None

    def set_execution_context_allocation_strategy(self, strategy: ExecutionContextAllocationStrategy) -> None:
        self._strategy = strategy

    @property
    def dynamic_shapes_kernel_specialization_strategy(self) -> DynamicShapesKernelSpecializationStrategy:
        return self._specialization

    @dynamic_shapes_kernel_specialization_strategy.setter
    def dynamic_shapes_kernel_specialization_strategy(self, strategy: DynamicShapesKernelSpecializationStrategy) -> None:
        self._specialization = strategy

    def create_runtime_cache(self) -> IRuntimeCache:
        return self.cache_type()

    def set_runtime_cache(self, cache: IRuntimeCache) -> bool:
        self._cache = cache
        return True


class ICudaEngine:
    def __init__(self, contents: bytes, module: Any, logger: ILogger) -> None:
        import onnxruntime

        self._module, self._logger = module, logger
        self._contents = json.loads(contents)
        graph = base64.b64decode(self._contents["graph"])
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        described = ModelProto.FromString(graph).graph
        self._io = {value.name: value.type.tensor_type for value in (*described.input, *described.output)}
        self._inputs = [value.name for value in described.input]

    @property
    def device_memory_size_v2(self) -> int:
        return sum(math.prod(largest) for _, _, largest in self._contents["shapes"].values())

    @property
    def num_io_tensors(self) -> int:
        return len(self._io)

    def get_tensor_name(self, index: int) -> str:
        return list(self._io)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self._inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        return self._io[name].elem_type

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        shape = tuple(dim.dim_value or -1 for dim in self._io[name].shape.dim)
        if name not in self._inputs:
            return shape
        smallest, _, largest = self.get_tensor_profile_shape(name, 0)
        return tuple(low if low == high else -1 for low, high in zip(smallest, largest, strict=True))

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        assert profile_index == 0
        return [tuple(shape) for shape in self._contents["shapes"][name]]

    def create_runtime_config(self) -> IRuntimeConfig:
        return self._module.IRuntimeConfig()  # type: ignore[no-any-return]

    def create_execution_context(self, runtime_config: IRuntimeConfig) -> IExecutionContext | None:
        if self._module.gpu is not None:
            self._module.gpu.forbid("made an execution context")
        context: IExecutionContext = self._module.IExecutionContext(self, runtime_config)
        self._module.contexts.append(context)
        return context


class IExecutionContext:
    on_execute: Callable[[IExecutionContext], bool] | None = None
    """What a test wants to happen inside execute_async_v3."""

    wants_largest_memory = False
    """Whether scratch memory for the shapes is not enough, as the documentation of set_device_memory has it."""

    def __init__(self, engine: ICudaEngine, config: IRuntimeConfig) -> None:
        self._engine, self._config = engine, config
        self._addresses: dict[str, int] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._memory = (0, 0)
        self._streams: list[int] = []
        self._shapes_set = 0

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        smallest, _, largest = self._engine.get_tensor_profile_shape(name, 0)
        if not all(low <= side <= high for low, side, high in zip(smallest, shape, largest, strict=True)):
            self._engine._logger.log(Severity.ERROR, f"Static dimension mismatch while setting input shape for {name}.")
            return False
        self._shapes[name] = shape
        self._shapes_set += 1
        return True

    def update_device_memory_size_for_shapes(self) -> int:
        return sum(math.prod(shape) for shape in self._shapes.values())

    def set_device_memory(self, memory: int, size: int) -> None:
        assert memory % ALIGNMENT == 0
        self._memory = (memory, size)

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        if name in self._shapes:
            return self._shapes[name]
        return tuple(np.shape(self._compute({name: np.zeros(shape) for name, shape in self._shapes.items()})[name]))

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if memory % ALIGNMENT:
            self._engine._logger.log(Severity.ERROR, f"Misaligned address {memory:#x} for tensor {name}.")
            return False
        self._addresses[name] = memory
        return bool(memory)

    def is_stream_capturable(self, stream: int) -> bool:
        del stream
        return bool(self._engine._contents["user_allocation"])

    def execute_async_v3(self, stream_handle: int) -> bool:
        own = type(self)
        if own.on_execute is not None and not own.on_execute(self):
            return False
        self._streams.append(stream_handle)
        memory, size = self._memory
        assert self._config._strategy == ExecutionContextAllocationStrategy.USER_MANAGED
        least = self._engine.device_memory_size_v2 if own.wants_largest_memory else self.update_device_memory_size_for_shapes()
        if size < least:
            self._engine._logger.log(
                Severity.ERROR, f"Device memory of {size} bytes is smaller than the {least} that are needed."
            )
            return False
        ctypes.memset(memory, 0xAB, size)
        shapes, addresses = dict(self._shapes), dict(self._addresses)
        if self._engine._module.gpu is None:
            self._run(shapes, addresses)
        else:
            self._engine._module.gpu.put(stream_handle, lambda: self._run(shapes, addresses))
        if self._config._cache is not None:
            self._config._cache._kernels.add(str(sorted(self._shapes.items())))
        return True

    def _run(self, shapes: dict[str, tuple[int, ...]], addresses: dict[str, int]) -> None:
        feeds = {name: self._at(name, addresses, shapes[name]).copy() for name in self._engine._inputs}
        time.sleep(0.001)
        for name, result in self._compute(feeds).items():
            self._at(name, addresses, result.shape)[...] = result

    def _compute(self, feeds: dict[str, Any]) -> dict[str, Any]:
        engine = self._engine
        typed = {name: value.astype(nptype(engine.get_tensor_dtype(name))) for name, value in feeds.items()}
        names = [name for name in engine._io if name not in engine._inputs]
        return dict(zip(names, engine._session.run(names, typed), strict=True))

    def _at(self, name: str, addresses: dict[str, int], shape: tuple[int, ...]) -> Any:
        dtype = np.dtype(nptype(self._engine.get_tensor_dtype(name)))
        size = math.prod(shape) * dtype.itemsize
        contents = (ctypes.c_uint8 * size).from_address(addresses[name])
        return np.frombuffer(contents, dtype).reshape(shape)


class Runtime:
    module: Any = None

    def __init__(self, logger: ILogger) -> None:
        self._logger = logger

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        if serialized_engine.startswith(b"engine {"):
            return self.module.ICudaEngine(serialized_engine.removeprefix(b"engine "), self.module, self._logger)  # type: ignore[no-any-return]
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
    PreviewFeature,
    TensorIOMode,
    ExecutionContextAllocationStrategy,
    DynamicShapesKernelSpecializationStrategy,
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
    IRuntimeCache,
    IRuntimeConfig,
    ICudaEngine,
    IExecutionContext,
    Runtime,
)


def fake_module(*, rtx: bool, version: str = "1.2.3") -> Any:
    """A new module, with classes of its own, that lacks what the other flavour alone has."""
    module: Any = ModuleType("fake_tensorrt")
    module.__version__ = version
    module.nptype = nptype
    module.contexts = []
    module.gpu = None
    for kind in CLASSES:
        absent = set() if rtx else RTX_ONLY.get(kind.__name__, set())
        if absent != {"*"}:
            setattr(module, kind.__name__, _without(kind, absent))
    module.Builder.config_type = module.IBuilderConfig
    module.Runtime.module = module
    if rtx:
        module.IRuntimeConfig.cache_type = module.IRuntimeCache
    return module


def _without(kind: Any, absent: set[str]) -> Any:
    if issubclass(kind, enum.Enum):
        members = {name: member.value for name, member in kind.__members__.items() if name not in absent}
        return enum.IntEnum(kind.__name__, members) if absent else kind
    return type(kind.__name__, (kind,), {name: property(_absent) for name in absent})


def _absent(config: object) -> Any:
    del config
    raise AttributeError("only TensorRT for RTX has this")
