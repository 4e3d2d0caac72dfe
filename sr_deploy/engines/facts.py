"""What a graph itself tells: scale, reach of a pixel, cost per pixel."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import starmap
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper, shape_inference

from sr_deploy.engines.engine import Shapes
from sr_deploy.errors import EngineError, first_line

_PROBE_SIZE = 192
"""LR side for costs: divisible by every usual stride, large enough that borders hardly count."""

_LARGEST_MIN_SIZE = 64
_WRITES_IN_PLACE = {
    "Abs", "Add", "Cast", "Clip", "Div", "Elu", "Erf", "Gelu", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Max",
    "Min", "Mish", "Mul", "Neg", "PRelu", "Pow", "Relu", "Reshape", "Round", "Sigmoid", "Softplus", "Sqrt", "Squeeze",
    "Sub", "Tanh", "Unsqueeze",
}  # fmt: skip
SUMS = frozenset({"ReduceMean", "ReduceSum", "ReduceSumSquare", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp"})
"""Operators that add up along the axes that they name."""

SUMS_OVER_PIXELS = frozenset(
    {"GlobalAveragePool", "GlobalLpPool", "InstanceNormalization", "GroupNormalization", "MeanVarianceNormalization"}
)
"""Operators that add up all pixels, whatever they name."""

_REDUCTIONS = SUMS | {"ReduceMax", "ReduceMin"}
_GLOBAL = SUMS_OVER_PIXELS | {"GlobalMaxPool", "LayerNormalization", "MatMul", "Gemm", "Softmax"}
_WINDOWED = {"Conv", "MaxPool", "AveragePool"}


@dataclass(frozen=True)
class GraphFacts:
    """`halo` is the radius of the receptive field in LR pixels; `exact` says whether a tile with that halo equals the whole.

    `macs` and `activation_bytes` (the peak of what is alive at once, in fp32) are per LR pixel.
    """

    scale: int
    channels: int
    exact: bool
    halo: int
    min_size: int
    macs: int
    activation_bytes: int
    parameters: int


@dataclass(frozen=True)
class Cost:
    """What one sample of some size costs: multiply-accumulates, and the peak of what is alive at once, in fp32."""

    macs: int
    activation_bytes: int


def graph_facts(model: ModelProto, *, min_size: int | None = None, size_multiple: int = 1) -> GraphFacts:
    """Facts of an image graph (N,C,H,W) -> (N,C,sH,sW), without running it; `min_size` is searched for where it is not known.
    `exact` and `halo` hold for tiles that begin at multiples of `size_multiple`.

    Raises: EngineError when the graph's shapes do not follow from its input.
    """
    shapes = infer_shapes(model, _PROBE_SIZE, _PROBE_SIZE)
    source, target = model.graph.input[0].name, model.graph.output[0].name
    _, channels, height, _ = shapes[source]
    scale = shapes[target][2] // height
    reach = _reach(model, shapes, size_multiple)
    area = _PROBE_SIZE * _PROBE_SIZE
    cost = _cost(model, shapes)
    return GraphFacts(
        scale=scale,
        channels=channels,
        exact=reach is not None,
        halo=32 if reach is None else math.ceil(reach),
        min_size=_min_size(model) if min_size is None else min_size,
        macs=cost.macs // area,
        activation_bytes=math.ceil(cost.activation_bytes / area),
        parameters=parameters(model),
    )


def cost_of(model: ModelProto, height: int, width: int) -> Cost:
    """The cost of one sample (1,C,height,width) through a graph whose first output may be of any size.

    Raises: EngineError.
    """
    return _cost(model, infer_shapes(model, height, width))


def parameters(model: ModelProto) -> int:
    """How many weights a graph has."""
    return sum(math.prod(tensor.dims) for tensor in model.graph.initializer if len(tensor.dims) > 0)


def _cost(model: ModelProto, shapes: Shapes) -> Cost:
    return Cost(_macs(model, shapes), _peak_elements(model, shapes) * 4)


def infer_shapes(model: ModelProto, height: int, width: int) -> Shapes:
    """Shape of every tensor for one image of that size.

    Raises: EngineError.
    """
    fixed = ModelProto()
    fixed.CopyFrom(model)
    del fixed.graph.value_info[:]
    for value, sizes in ((fixed.graph.input[0], (1, None, height, width)), (fixed.graph.output[0], (None,) * 4)):
        dims = value.type.tensor_type.shape.dim
        if len(dims) != len(sizes):
            raise EngineError(f"'{value.name}' of the graph has {len(dims)} dimensions, expected 4: (N, C, H, W)")
        for dim, size in zip(dims, sizes, strict=True):
            if size is not None:
                dim.dim_value = size
            elif not dim.HasField("dim_value"):
                dim.Clear()
    try:
        shapes = _inferred(fixed)
        while _fold_sizes(fixed, shapes):
            shapes |= _inferred(fixed)
    except Exception as exc:
        raise EngineError(f"the graph does not take {width}x{height} pixels: {first_line(exc)}") from exc
    if model.graph.output[0].name not in shapes:
        raise EngineError("the graph's output size does not follow from its input; simplify the graph before using it here")
    return shapes


def _inferred(model: ModelProto) -> Shapes:
    graph = shape_inference.infer_shapes(model, data_prop=True, strict_mode=True).graph
    shapes: Shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.output, *graph.value_info):
        dims = value.type.tensor_type.shape.dim
        if all(dim.HasField("dim_value") for dim in dims):
            shapes[value.name] = tuple(dim.dim_value for dim in dims)
    return shapes


def _fold_sizes(model: ModelProto, shapes: Shapes) -> bool:
    """Compute what follows from known sizes alone, where ONNX's inference does not, as behind Div and Range.

    Changes the model; says whether there was anything to compute.
    """
    from onnx.reference import ReferenceEvaluator

    graph = model.graph
    if all(name in shapes for node in graph.node for name in node.output if name):
        return False
    constants = {tensor.name for tensor in graph.initializer}
    known: list[NodeProto] = []
    for node in graph.node:
        sized = node.op_type == "Shape" and node.input[0] in shapes
        if sized or all(name in constants for name in node.input if name):
            known.append(_size_of(node, shapes) if sized else node)
            constants.update(node.output)
    if not known:
        return False
    names = [name for node in known for name in node.output if name]
    outputs = [helper.make_empty_tensor_value_info(name) for name in names]
    part = helper.make_model(
        helper.make_graph(known, "sizes", [], outputs, list(graph.initializer)), opset_imports=model.opset_import
    )
    values = ReferenceEvaluator(part).run(None, {})
    rest = [node for node in graph.node if not constants.issuperset(node.output)]
    del graph.node[:]
    graph.node.extend(rest)
    graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name) for name, value in zip(names, values, strict=True)
    )
    return True


def _size_of(node: NodeProto, shapes: Shapes) -> NodeProto:
    size = shapes[node.input[0]][attribute(node, "start", 0) : attribute(node, "end", None)]
    return helper.make_node("Constant", [], list(node.output), value_ints=size)


def _min_size(model: ModelProto) -> int:
    for size in range(1, _LARGEST_MIN_SIZE + 1):
        try:
            shapes = infer_shapes(model, size, size)
        except EngineError:
            continue
        if all(_windows_fit(node, shapes) for node in model.graph.node):
            return size
    raise EngineError(f"the graph takes no image of up to {_LARGEST_MIN_SIZE} pixels a side")


def _windows_fit(node: NodeProto, shapes: Shapes) -> bool:
    if node.op_type not in _WINDOWED:
        return True
    tall, wide = _window(node, shapes)
    if tall == wide == 1:
        return True
    pads, source = attribute(node, "pads", [0, 0, 0, 0]), node.input[0]
    if source not in shapes:
        raise EngineError(f"the size of '{source}' does not follow from the graph's input; simplify the graph")
    height, width = shapes[source][2:]
    return bool(height + pads[0] + pads[2] >= tall and width + pads[1] + pads[3] >= wide)


def _window(node: NodeProto, shapes: Shapes) -> tuple[int, int]:
    """Height and width that one output pixel of a convolution or pooling sees."""
    kernel = shapes[node.input[1]][2:] if node.op_type == "Conv" else attribute(node, "kernel_shape", [1, 1])
    dilations = _two(node, "dilations", attribute(node, "dilations", [1, 1]))
    tall, wide = (
        (size - 1) * dilation + 1 for size, dilation in zip(_two(node, "sides of its kernel", kernel), dilations, strict=True)
    )
    return tall, wide


def _two(node: NodeProto, what: str, values: Sequence[int]) -> tuple[int, int]:
    """Values of height and width. Raises: EngineError unless there are two."""
    if len(values) != 2:
        raise EngineError(f"a {node.op_type} of the graph has {len(values)} {what}, expected 2")
    return values[0], values[1]


def _reach(model: ModelProto, shapes: Shapes, size_multiple: int) -> Fraction | None:
    """How far an output pixel sees, in LR pixels; None when tiles can never be exact (other strides, global pooling)."""
    source = model.graph.input[0].name
    height = shapes[source][2]
    reaches: dict[str, Fraction] = {source: Fraction(0)}
    for node in model.graph.node:
        seen = [name for name in node.input if name in reaches]
        if not seen or node.op_type == "Shape":
            continue
        grid = Fraction(height, shapes[seen[0]][2])
        if not _is_shift_invariant(node, shapes, reaches, size_multiple / grid):
            return None
        reach = max(reaches[name] for name in seen) + _radius(node, shapes) * grid
        for name in node.output:
            if name in shapes and len(shapes[name]) == 4:
                reaches[name] = reach
    return reaches.get(model.graph.output[0].name)


def _is_shift_invariant(node: NodeProto, shapes: Shapes, reaches: Iterable[str], step: Fraction) -> bool:
    """Whether a node makes the same of a picture that moved by `step` pixels of its own input."""
    if node.op_type in _GLOBAL:
        return False
    if node.op_type in _REDUCTIONS and any(shapes.get(name, (0, 0, 1, 1))[2:] == (1, 1) for name in node.output):
        return False
    if node.op_type in _WINDOWED and any(step % stride for stride in _strides(node)):
        return False
    inside = next(name for name in node.input if name in reaches)
    shrinks = max(_strides(node)) if node.op_type in _WINDOWED else 1
    grows = all(shapes[name][2] * shrinks >= shapes[inside][2] for name in node.output if len(shapes.get(name, ())) == 4)
    return grows and all(len(shapes.get(name, ())) in (4, 6) for name in node.output if name)


def _radius_of_window(side: int, stride: int, pad: int) -> Fraction:
    """How far a window sees beyond the `stride` pixels that are its output's."""
    return Fraction(side - 1, 2) if stride == 1 else Fraction(max(pad, side - stride - pad))


def _strides(node: NodeProto) -> tuple[int, int]:
    return _two(node, "strides", attribute(node, "strides", [1, 1]))


def _pads(node: NodeProto) -> tuple[int, int]:
    """Pixels added above and to the left."""
    return _two(node, "pads at the beginning", attribute(node, "pads", [0, 0, 0, 0])[:2])


def _radius(node: NodeProto, shapes: Shapes) -> Fraction:
    """Radius that one node adds, in pixels of its own input."""
    if node.op_type in _WINDOWED:
        return max(starmap(_radius_of_window, zip(_window(node, shapes), _strides(node), _pads(node), strict=True)))
    if node.op_type == "ConvTranspose":
        kernel = _two(node, "sides of its kernel", shapes[node.input[1]][2:])
        sides = zip(kernel, _strides(node), _pads(node), strict=True)
        return Fraction(max(max(side - 1 - pad, pad + stride - 1) // stride for side, stride, pad in sides))
    if node.op_type == "Resize":
        return Fraction({"nearest": 0, "linear": 1, "cubic": 2}[attribute(node, "mode", b"nearest").decode()])
    return Fraction(0)


def _macs(model: ModelProto, shapes: Shapes) -> int:
    total = 0
    for node in model.graph.node:
        if node.op_type in {"Conv", "ConvTranspose"} and node.output[0] in shapes:
            weight = shapes[node.input[1]]
            pixels = shapes[node.output[0] if node.op_type == "Conv" else node.input[0]][2:]
            total += math.prod(weight) * math.prod(pixels)
        elif node.op_type in {"MatMul", "Gemm"} and node.output[0] in shapes and node.input[0] in shapes:
            total += math.prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]
    return total


def _peak_elements(model: ModelProto, shapes: Shapes) -> int:
    """Largest number of elements alive at once when nodes run in order; element-wise nodes reuse their input's memory."""
    weights = {tensor.name for tensor in model.graph.initializer}
    last_use = {name: index for index, node in enumerate(model.graph.node) for name in node.input if name not in weights}
    last_use |= {value.name: len(model.graph.node) for value in model.graph.output}
    source = model.graph.input[0].name
    alive = {source: math.prod(shapes[source])}
    total = peak = alive[source]
    for index, node in enumerate(model.graph.node):
        born = {name: math.prod(shapes[name]) for name in node.output if name in shapes and name in last_use}
        dying = [name for name in set(node.input) if last_use.get(name) == index and name in alive]
        in_place = node.op_type in _WRITES_IN_PLACE and bool(dying)
        total += sum(born.values()) - (sum(alive[name] for name in dying) if in_place else 0)
        peak = max(peak, total)
        total -= 0 if in_place else sum(alive[name] for name in dying)
        for name in dying:
            del alive[name]
        alive |= born
    return peak


def attribute(node: NodeProto, name: str, default: Any) -> Any:
    """Value of a node's attribute, or `default`."""
    for candidate in node.attribute:
        if candidate.name == name:
            return helper.get_attribute_value(candidate)
    return default
