"""Bytes that a frame moves on a GPU around the network itself, counted form by form from the graphs and from our kernels.

    python benchmarks/traffic.py BUNDLE... --size 960x540

The network's own nodes are not counted; they are the same in each form.
"""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import ModelProto, NodeProto, ValueInfoProto, helper, shape_inference

from sr_deploy.bundle import Bundle
from sr_deploy.card import Precision
from sr_deploy.engines.pixels import to_pixel_form
from sr_deploy.engines.planes import to_planes_form
from sr_deploy.errors import EngineError

VIEWS = frozenset({"Identity", "Reshape"})
"""Give another shape to the same memory, or another name."""

POINTWISE = frozenset({"Cast", "Clip", "Mul", "QuantizeLinear", "Round"})
"""What a compiler such as TensorRT puts into one kernel where one follows the other, by its documentation."""

_FP32 = 4


@dataclass(frozen=True)
class Step:
    """What one kernel reads and writes, in bytes; `name` is the node's, or our kernel's."""

    name: str
    bytes: int


def node_traffic(model: ModelProto, shape: tuple[int, ...], *, fused: bool = False) -> list[Step]:
    """Of each node for an input of that shape: its inputs are read once, its outputs written once.

    Views move nothing, nor does a multiplication of what a convolution gives by one number: that goes into its weights.
    `fused`: pointwise nodes that follow one another are one step, named after the first.

    Raises: EngineError when the size of a tensor does not follow from the input's.
    """
    sizes = _sizes(model, shape)
    groups = list(_pointwise_groups(model)) if fused else [[node] for node in model.graph.node]
    return [Step(group[0].name, _moved(group, model, sizes)) for group in groups]


def around(steps: Iterable[Step]) -> list[Step]:
    """The steps that a form adds to the network."""
    return [step for step in steps if step.name.startswith("pixel_form.")]


def kernel_traffic(height: int, width: int, *, scale: int, itemsize: int, channels: int = 3) -> list[Step]:
    """Of our kernels around an engine in planes form, for a frame of that size in one tile; partial sums are left out."""
    frame = height * width * channels
    tile, planes, magnitudes = frame * itemsize, frame * scale**2 * itemsize, height * width * scale * _FP32
    return [
        Step("gather", frame + tile),
        Step("scatter", planes + frame * scale**2 + magnitudes),
        Step("health", magnitudes),
        Step("brightness", tile),
    ]


def _sizes(model: ModelProto, shape: tuple[int, ...]) -> dict[str, int]:
    """Bytes of every tensor."""
    fixed = ModelProto()
    fixed.CopyFrom(model)
    del fixed.graph.value_info[:]
    for dim, side in zip(fixed.graph.input[0].type.tensor_type.shape.dim, shape, strict=True):
        dim.dim_value = side
    for value in fixed.graph.output:
        for dim in value.type.tensor_type.shape.dim:
            dim.Clear()
    graph = shape_inference.infer_shapes(fixed, data_prop=True, strict_mode=True).graph
    weights = {tensor.name: math.prod(tensor.dims) * _itemsize(tensor.data_type) for tensor in graph.initializer}
    return weights | {value.name: _bytes_of(value) for value in (*graph.input, *graph.value_info, *graph.output)}


def _bytes_of(value: ValueInfoProto) -> int:
    tensor = value.type.tensor_type
    if not all(dim.HasField("dim_value") for dim in tensor.shape.dim):
        raise EngineError(f"the size of '{value.name}' does not follow from the input's; simplify the graph")
    sides = [int(dim.dim_value) for dim in tensor.shape.dim]
    return math.prod(sides) * _itemsize(tensor.elem_type)


def _itemsize(data_type: int) -> int:
    return int(helper.tensor_dtype_to_np_dtype(data_type).itemsize)


def _pointwise_groups(model: ModelProto) -> Iterator[list[NodeProto]]:
    """The nodes in order; a pointwise one joins the group of a pointwise one that it reads."""
    group_of: dict[str, list[NodeProto]] = {}
    groups: list[list[NodeProto]] = []
    for node in model.graph.node:
        joined = next((group_of[name] for name in node.input if name in group_of), None) if _is_pointwise(node) else None
        group = [] if joined is None else joined
        group.append(node)
        if joined is None:
            groups.append(group)
        if _is_pointwise(node):
            group_of |= dict.fromkeys(node.output, group)
    yield from groups


def _is_pointwise(node: NodeProto) -> bool:
    return node.op_type in POINTWISE


def _moved(group: list[NodeProto], model: ModelProto, sizes: dict[str, int]) -> int:
    """What goes in from outside the group, and what is read outside of it."""
    if len(group) == 1 and (group[0].op_type in VIEWS or group[0].op_type == "Shape" or _is_folded(group[0], model)):
        return 0
    made = {name for node in group for name in node.output}
    read = {name for node in group for name in node.input if name} - made
    outside = {name for node in model.graph.node if node not in group for name in node.input}
    outside |= {value.name for value in model.graph.output}
    return sum(sizes[name] for name in (*read, *(made & outside)))


def _is_folded(node: NodeProto, model: ModelProto) -> bool:
    """Whether it multiplies by one number what a convolution gives to it alone."""
    if node.op_type != "Mul":
        return False
    numbers = {tensor.name for tensor in model.graph.initializer if math.prod(tensor.dims) == 1}
    convolved = {name for other in model.graph.node if other.op_type == "Conv" for name in other.output}
    readers = Counter(name for other in model.graph.node for name in other.input)
    sources = [name for name in node.input if name not in numbers]
    return len(sources) == 1 and sources[0] in convolved and readers[sources[0]] == 1


def table(bundle: Bundle, width: int, height: int) -> Iterator[str]:
    """Rows: the form, and the megabytes around the network, node by node and with pointwise nodes fused."""
    precision: Precision = "fp16" if bundle.runs("fp16") else "fp32"
    model = onnx.load(bundle.graph(precision))
    pixels, planes = (1, height, width, 3), (1, 3, height, width)
    forms: dict[str, tuple[Callable[[], ModelProto], tuple[int, ...]]] = {
        "pixels": (lambda: to_pixel_form(model), pixels),
        "pixels, Cast last": (lambda: to_pixel_form(model, cast_last=True), pixels),
        "planes": (lambda: to_planes_form(model), planes),
    }
    for name, (make, shape) in forms.items():
        ours = kernel_traffic(height, width, scale=bundle.card.scale, itemsize=2 if precision == "fp16" else 4)
        if name != "planes":
            ours = [Step("brightness", math.prod(pixels))]
        moved = [
            sum(step.bytes for step in (*around(node_traffic(make(), shape, fused=fused)), *ours)) for fused in (False, True)
        ]
        yield f"| {bundle.card.name} {precision} | {name} | {' | '.join(f'{one / 1e6:.1f}' for one in moved)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="+", type=Path)
    parser.add_argument("--size", default="960x540", help="of the frame, WIDTHxHEIGHT")
    arguments = parser.parse_args()
    width, height = map(int, arguments.size.split("x"))
    print("| network | form | MB, node by node | MB, pointwise nodes fused |\n|---|---|---|---|")
    for folder in arguments.bundles:
        for row in table(Bundle.open(folder), width, height):
            print(row)


if __name__ == "__main__":
    main()
