"""How long convs take in fp32 and in 8 bits, as a model of two numbers that follow from two small graphs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from sr_deploy.arrays import Array
from sr_deploy.engines import open_engine
from sr_deploy.engines.facts import attribute, infer_shapes
from sr_deploy.export.int8.calibration import ChannelRanges, Quantizer
from sr_deploy.export.int8.graph import to_int8
from sr_deploy.export.int8.rounding import QuantizedWeights
from sr_deploy.export.kept import GraphIndex

_FUSED = {"Relu", "LeakyRelu", "PRelu", "Clip"}
"""What a runtime computes with the conv before it, quantization behind it included."""

_SIDE = 192
_CHANNELS, _DEPTH, _HEIGHT, _WIDTH = 48, 6, 128, 192
_ROUNDS = 5


@dataclass(frozen=True)
class SpeedModel:
    """Milliseconds of one thread. fp32: of 1e9 multiply-accumulates; saved: of these in 8 bits; pass_: of 1e6 values that are
    quantized by a pass of their own, since no conv in 8 bits makes them."""

    fp32: float
    saved: float
    pass_: float


STORED = SpeedModel(70.0, 42.0, 3.2)
"""Of a server's CPU with AVX-512 and VNNI, on which 8 bits pay."""


@dataclass(frozen=True)
class ConvCost:
    """A conv that can be computed in 8 bits. macs, elements: its multiply-accumulates and the values in front of it, for one
    LR pixel."""

    conv: NodeProto
    macs: float
    elements: float

    @property
    def name(self) -> str:
        return self.conv.name


class TimeEstimate:
    """Time of a graph for one LR pixel, by the model, with some of its convs in 8 bits."""

    def __init__(self, model: ModelProto, speed: SpeedModel) -> None:
        self._graph, self._speed = GraphIndex(model), speed
        shapes = infer_shapes(model, _SIDE, _SIDE)
        area = _SIDE * _SIDE
        convs = [node for node in self._graph.nodes if node.op_type == "Conv" and node.input[1] in self._graph.weights]
        layers = [ConvCost(node, _macs(node, shapes) / area, np.prod(shapes[node.input[0]]) / area) for node in convs]
        self.macs = sum(layer.macs for layer in layers)
        self.layers = {layer.name: layer for layer in layers if attribute(layer.conv, "group", 1) == 1}

    def saved(self, chosen: Collection[str]) -> float:
        """Nanoseconds that are saved at one LR pixel."""
        macs = sum(self.layers[name].macs for name in chosen)
        sources = {self.layers[name].conv.input[0]: self.layers[name].elements for name in chosen}
        passes = sum(elements for source, elements in sources.items() if not self._is_fused(source, chosen))
        return self._speed.saved * macs * 1e-3 - self._speed.pass_ * passes

    def factor(self, chosen: Collection[str]) -> float:
        """How many times as fast the graph is."""
        whole = self._speed.fp32 * self.macs * 1e-3
        return whole / (whole - self.saved(chosen))

    def neighbors(self, name: str) -> list[str]:
        """The convs whose values come from this one without a pass between."""
        tensor = self.layers[name].conv.output[0]
        while len(readers := self._graph.readers.get(tensor, [])) == 1 and readers[0].op_type in _FUSED:
            tensor = readers[0].output[0]
        return [node.name for node in readers if node.name in self.layers]

    def _is_fused(self, tensor: str, chosen: Collection[str]) -> bool:
        if any(reader.name not in chosen for reader in self._graph.readers.get(tensor, ())):
            return False
        maker = self._graph.maker.get(tensor)
        while maker is not None and maker.op_type in _FUSED and len(self._graph.readers[maker.input[0]]) == 1:
            maker = self._graph.maker.get(maker.input[0])
        return maker is not None and maker.name in chosen


def _macs(node: NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> float:
    _, out, height, width = shapes[node.output[0]]
    return float(out * height * width * np.prod(shapes[node.input[1]][1:]))


def measured_model() -> SpeedModel:
    """The model of this machine: a chain of convs in fp32 and in 8 bits, and one whose values are added to before each conv."""
    chain, residual = _chain(residual=False), _chain(residual=True)
    times = median_times([chain, _in_8_bits(chain), residual, _in_8_bits(residual)], _HEIGHT, _WIDTH, _CHANNELS)
    giga = _DEPTH * _CHANNELS * _CHANNELS * 9 * _HEIGHT * _WIDTH / 1e9
    passes = (_DEPTH - 1) * _CHANNELS * _HEIGHT * _WIDTH / 1e6
    saved = (times[0] - times[1]) / giga
    return SpeedModel(times[0] / giga, saved, max(0.0, (saved * giga - (times[2] - times[3])) / passes))


def median_times(graphs: Iterable[ModelProto], height: int, width: int, channels: int, *, threads: int = 1) -> list[float]:
    """Milliseconds of each graph for one image, by OpenVINO; they take turns."""
    image = np.random.default_rng(5).random((1, channels, height, width), np.float32)
    engines = [open_engine(graph, backend="openvino", threads=threads) for graph in graphs]
    taken: list[list[float]] = [[] for _ in engines]
    for turn in range(_ROUNDS + 1):
        for engine, times in zip(engines, taken, strict=True):
            engine.settle(image.shape)
            begin = time.perf_counter()
            engine.run({engine.inputs[0].name: image})
            if turn:
                times.append(1000 * (time.perf_counter() - begin))
    for engine in engines:
        engine.close()
    return [statistics.median(times) for times in taken]


def _chain(*, residual: bool) -> ModelProto:
    random = np.random.default_rng(6)
    nodes, tensors, last = [], [], "input"
    for number in range(_DEPTH):
        weight = random.normal(0, 0.05, (_CHANNELS, _CHANNELS, 3, 3)).astype(np.float32)
        tensors.append(numpy_helper.from_array(weight, f"w{number}"))
        tensors.append(numpy_helper.from_array(np.zeros(_CHANNELS, np.float32), f"b{number}"))
        nodes.append(
            helper.make_node("Conv", [last, f"w{number}", f"b{number}"], [f"c{number}"], f"conv{number}", pads=[1] * 4)
        )
        nodes.append(helper.make_node("LeakyRelu", [f"c{number}"], [f"r{number}"], f"relu{number}", alpha=0.05))
        if residual:
            nodes.append(helper.make_node("Add", [f"r{number}", last], [f"a{number}"], f"add{number}"))
        last = nodes[-1].output[0]
    shape = [1, _CHANNELS, None, None]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("input", last)]
    graph = helper.make_graph(nodes, "chain", values[:1], values[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def _in_8_bits(model: ModelProto) -> ModelProto:
    convs: Sequence[NodeProto] = [node for node in model.graph.node if node.op_type == "Conv"]
    arrays: dict[str, Array] = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    quantizer: Quantizer = ChannelRanges(np.full(1, -3.0), np.full(1, 3.0)).quantizer(symmetric=False)
    weights = {
        node.name: QuantizedWeights(
            np.rint(arrays[node.input[1]] / 0.002).clip(-127, 127).astype(np.int8),
            np.full(_CHANNELS, 0.002, np.float32),
            np.zeros(_CHANNELS, np.float32),
        )
        for node in convs
    }
    return to_int8(model, weights, {node.input[0]: quantizer for node in convs})
