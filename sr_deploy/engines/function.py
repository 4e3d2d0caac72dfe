"""An Engine over any function: for tests, references, and users' own code."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from sr_deploy.arrays import Array
from sr_deploy.device.device import Device, DeviceArray
from sr_deploy.device.streams import Stream
from sr_deploy.engines.engine import DeviceEngine, Engine, TensorSpec, check_arrays
from sr_deploy.errors import EngineError, FeedError

Function = Callable[..., Array | Sequence[Array]]


class FunctionEngine(Engine):
    """Runs `function` on the feeds, in the order of `inputs`; it returns one array, or one per output.

    Raises: EngineError when the function returns something else than `outputs` says.
    """

    def __init__(
        self,
        function: Function,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        *,
        description: str = "function",
    ) -> None:
        super().__init__()
        self._function = function
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)
        self.description = description

    def _run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        result = self._function(*(feeds[spec.name] for spec in self.inputs))
        arrays = (result,) if len(self.outputs) == 1 and not isinstance(result, tuple | list) else tuple(result)
        if len(arrays) != len(self.outputs):
            raise EngineError(f"{self.description}: gave {len(arrays)} results, expected {len(self.outputs)}")
        for spec, array in zip(self.outputs, arrays, strict=True):
            if not spec.accepts(array):
                raise EngineError(f"{self.description}: gave {array.dtype.name}{list(array.shape)}, expected {spec}")
        return {spec.name: array for spec, array in zip(self.outputs, arrays, strict=True)}


class DeviceFunctionEngine(FunctionEngine, DeviceEngine):
    """Runs `function` on what lies on a device, the CPU by default: it gets numpy arrays, and its results are copied out.

    On the CPU the arrays are views, and `enqueue` may be recorded. On a GPU they are copies, and `enqueue` waits.
    """

    def __init__(
        self,
        function: Function,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        *,
        device: Device | None = None,
        contexts: int = 1,
        limits: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]] | None = None,
        description: str = "function",
    ) -> None:
        super().__init__(function, inputs, outputs, description=description)
        self.device = device or Device("cpu")
        self.contexts = contexts
        self.capturable = not self.device.is_gpu
        self.limits = limits or {}

    def enqueue(self, arrays: Mapping[str, DeviceArray], *, stream: Stream = None, context: int = 0) -> None:
        if self._closed:
            raise EngineError(f"{self.description}: run after close; open a new engine")
        check_arrays(self, arrays, context)
        self.device.synchronize(stream)
        results = self._run({spec.name: arrays[spec.name].numpy() for spec in self.inputs})
        for name, result in results.items():
            if result.shape != arrays[name].shape:
                raise FeedError(f"{self.description}: gave {list(result.shape)} for '{name}' of {list(arrays[name].shape)}")
            self.device.copy(arrays[name], self.device.array(result, stream=stream), stream=stream)
        self.device.synchronize(stream)
