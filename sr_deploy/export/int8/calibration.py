"""What the values in front of each conv are: their ranges, and the second moments of what its kernel sees."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from sr_deploy.arrays import Array
from sr_deploy.engines import open_engine
from sr_deploy.engines.facts import attribute

_LEVELS = 255
"""Steps of 8 bits."""

_LEAST = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class Quantizer:
    """value * balance = scale * (code - zero_point). Codes are 0 to 255, or -127 to 127 where `symmetric`.

    balance: (C,) float32, a factor of each channel, which the weights behind are divided by; None for 1.
    """

    scale: float
    zero_point: int
    symmetric: bool = False
    balance: Array | None = None

    def balanced(self, values: Array) -> Array:
        """(1, C, H, W), each channel with its factor."""
        return values if self.balance is None else values * self.balance[:, None, None]

    def rounded(self, values: Array) -> Array:
        """The nearest of balanced values that have a code, float32."""
        low, high = (-127, 127) if self.symmetric else (0, 255)
        codes = np.rint(values / np.float32(self.scale)) + self.zero_point
        return ((codes.clip(low, high) - self.zero_point) * np.float32(self.scale)).astype(np.float32)


@dataclass(frozen=True)
class ChannelRanges:
    """Least and largest value of each channel, (C,); 0 is always among them, as it is what borders are padded with."""

    low: Array
    high: Array

    @property
    def peaks(self) -> Array:
        """Largest absolute value of each channel, (C,)."""
        return np.maximum(-self.low, self.high)

    def joined(self, other: ChannelRanges) -> ChannelRanges:
        """The range of both."""
        return ChannelRanges(np.minimum(self.low, other.low), np.maximum(self.high, other.high))

    def quantizer(self, *, symmetric: bool, balance: Array | None = None) -> Quantizer:
        """Whose codes span the range of balanced values."""
        factor = np.float32(1) if balance is None else balance
        low, high = float((self.low * factor).min()), float((self.high * factor).max())
        if symmetric:
            return Quantizer(max(-low, high, _LEAST) / 127, 0, True, balance)
        scale = max(high - low, _LEAST) / _LEVELS
        return Quantizer(scale, round(-low / scale), False, balance)


def range_of(values: Array) -> ChannelRanges:
    """Of (1, C, H, W)."""
    return ChannelRanges(np.minimum(values.min(axis=(0, 2, 3)), 0), np.maximum(values.max(axis=(0, 2, 3)), 0))


@dataclass
class Moments:
    """Of the values under a conv's kernel, flattened to C*kh*kw: sums over all places, exact and quantized, and their products.

    hessian: (K, K) of the quantized ones.
    """

    count: int = 0
    exact: Array = field(default_factory=lambda: np.zeros(0))
    quantized: Array = field(default_factory=lambda: np.zeros(0))
    hessian: Array = field(default_factory=lambda: np.zeros((0, 0)))

    def add(self, exact: Array, quantized: Array) -> None:
        """Both (places, K)."""
        if not self.count:
            size = exact.shape[1]
            self.exact, self.quantized, self.hessian = np.zeros(size), np.zeros(size), np.zeros((size, size))
        self.count += len(exact)
        self.exact += exact.sum(0, dtype=np.float64)
        self.quantized += quantized.sum(0, dtype=np.float64)
        self.hessian += quantized.T @ quantized


def ranges_of(model: ModelProto, names: Sequence[str], inputs: Sequence[Array]) -> dict[str, ChannelRanges]:
    """Ranges of tensors of an fp32 graph over all `inputs`, each (1, C, H, W)."""
    found: dict[str, ChannelRanges] = {}
    for values in _values(model, names, inputs):
        seen = {name: range_of(array) for name, array in values.items()}
        found = {name: found.get(name, one).joined(one) for name, one in seen.items()}
    return found


def moments_of(
    model: ModelProto, convs: Sequence[NodeProto], quantizers: Mapping[str, Quantizer], inputs: Sequence[Array]
) -> dict[str, Moments]:
    """Moments of each conv by its name; quantizers: by the name of the tensor in front of it."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    found = {conv.name: Moments() for conv in convs}
    for values in _values(model, list(dict.fromkeys(conv.input[0] for conv in convs)), inputs):
        balanced = {name: quantizers[name].balanced(array) for name, array in values.items()}
        rounded = {name: quantizers[name].rounded(array) for name, array in balanced.items()}
        for conv in convs:
            kernel = shapes[conv.input[1]]
            exact, quantized = (_under_kernel(array[conv.input[0]][0], conv, kernel) for array in (balanced, rounded))
            found[conv.name].add(exact, quantized)
    return found


def _values(model: ModelProto, names: Sequence[str], inputs: Sequence[Array]) -> Iterator[dict[str, Array]]:
    """The tensors of that name for each input."""
    exposed = ModelProto()
    exposed.CopyFrom(model)
    source = model.graph.input[0].name
    given = {value.name for value in exposed.graph.output}
    exposed.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names if name not in given and name != source
    )
    with open_engine(exposed, backend="onnxruntime") as engine:
        for image in inputs:
            results = engine.run({source: image}) | {source: image}
            yield {name: results[name] for name in names}


def _under_kernel(image: Array, conv: NodeProto, kernel: tuple[int, ...]) -> Array:
    """(C, H, W) -> (places, C*kh*kw): what a conv multiplies with its weights."""
    top, left, bottom, right = attribute(conv, "pads", [0, 0, 0, 0])
    down, across = attribute(conv, "strides", [1, 1])
    high, wide = kernel[2:]
    padded = np.pad(image, ((0, 0), (top, bottom), (left, right)))
    windows = sliding_window_view(padded, (high, wide), axis=(1, 2))[:, ::down, ::across]
    return np.ascontiguousarray(windows.transpose(1, 2, 0, 3, 4)).reshape(-1, len(image) * high * wide)


def weights_of(model: ModelProto, conv: NodeProto) -> tuple[Array, Array]:
    """(O, C, kh, kw) and bias (O,), float32; zeros where it has none."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    weight = np.asarray(numpy_helper.to_array(tensors[conv.input[1]]))
    has_bias = len(conv.input) > 2 and bool(conv.input[2])
    return weight, np.asarray(numpy_helper.to_array(tensors[conv.input[2]])) if has_bias else np.zeros(len(weight), np.float32)
