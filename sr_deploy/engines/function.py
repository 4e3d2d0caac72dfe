"""An Engine over any function: for tests, references, and users' own code."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from sr_deploy.engines.engine import Array, Engine, TensorSpec
from sr_deploy.errors import EngineError


class FunctionEngine(Engine):
    """Runs `function` on the feeds, in the order of `inputs`; it returns one array, or one per output.

    Raises: EngineError when the function returns something else than `outputs` says.
    """

    def __init__(
        self,
        function: Callable[..., Array | Sequence[Array]],
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
