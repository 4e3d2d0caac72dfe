"""An fp32 graph in torch, so that gradients flow through it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from onnx import ModelProto, NodeProto, numpy_helper
from torch import Tensor
from torch.nn import functional

from sr_deploy.engines.facts import attribute
from sr_deploy.errors import ExportError

Convs = Mapping[str, Callable[[Tensor], Tensor]]


class TorchGraph:
    """The function of a graph of one input and one output.

    Raises: ExportError for operators that are not known here.
    """

    def __init__(self, model: ModelProto) -> None:
        graph = model.graph
        unknown = sorted({node.op_type for node in graph.node} - OPERATORS.keys())
        if unknown:
            raise ExportError(f"a graph with {', '.join(unknown)} cannot be tuned; export it without --tune")
        self._nodes = list(graph.node)
        self._source, self._target = graph.input[0].name, graph.output[0].name
        self._weights = {tensor.name: torch.from_numpy(numpy_helper.to_array(tensor).copy()) for tensor in graph.initializer}

    def __call__(self, image: Tensor, convs: Convs | None = None) -> Tensor:
        """(N, C, H, W) -> (N, C, scale * H, scale * W). convs: what some nodes do, by name, in place of what they say."""
        values: dict[str, Tensor | None] = {**self._weights, self._source: image, "": None}
        for node in self._nodes:
            taken = [values[name] for name in node.input]
            instead = (convs or {}).get(node.name)
            given = OPERATORS[node.op_type](node, *taken) if instead is None else instead(_there(taken[0]))
            values.update(zip(node.output, given if isinstance(given, tuple) else (given,), strict=True))
        return _there(values[self._target])


def convolve(node: NodeProto, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """What a Conv node does, with these weights."""
    top, left, bottom, right = attribute(node, "pads", [0, 0, 0, 0])
    padded = functional.pad(x, (left, right, top, bottom))
    strides, dilations = attribute(node, "strides", [1, 1]), attribute(node, "dilations", [1, 1])
    return functional.conv2d(padded, weight, bias, strides, 0, dilations, attribute(node, "group", 1))


def _there(value: Tensor | None) -> Tensor:
    assert value is not None
    return value


def _pool(node: NodeProto, x: Tensor, *, largest: bool) -> Tensor:
    kernel, strides = attribute(node, "kernel_shape", []), attribute(node, "strides", [1, 1])
    top, left, bottom, right = attribute(node, "pads", [0, 0, 0, 0])
    if (top, left) != (bottom, right):
        raise ExportError(f"{node.name}: pads of {top}, {left}, {bottom}, {right} cannot be tuned; export it without --tune")
    if largest:
        return functional.max_pool2d(x, kernel, strides, (top, left))
    return functional.avg_pool2d(
        x, kernel, strides, (top, left), count_include_pad=bool(attribute(node, "count_include_pad", 0))
    )


def _resize(node: NodeProto, x: Tensor, _: Any, scales: Tensor | None = None, sizes: Tensor | None = None) -> Tensor:
    size = (
        [int(side) for side in sizes[2:]]
        if sizes is not None
        else [int(side * factor) for side, factor in zip(x.shape[2:], _there(scales)[2:].tolist(), strict=True)]
    )
    if attribute(node, "mode", b"nearest") == b"nearest":
        return functional.interpolate(x, size, mode="nearest")
    return functional.interpolate(x, size, mode="bilinear", align_corners=False)


def _slice(_: NodeProto, x: Tensor, starts: Tensor, ends: Tensor, axes: Tensor, steps: Tensor) -> Tensor:
    parts = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts.tolist(), ends.tolist(), axes.tolist(), steps.tolist(), strict=True):
        parts[axis] = slice(start, end, step)
    return x[tuple(parts)]


def _prelu(_: NodeProto, x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x > 0, x, x * slope)


def _mean(node: NodeProto, x: Tensor, axes: Tensor) -> Tensor:
    return x.mean(axes.tolist(), keepdim=bool(attribute(node, "keepdims", 1)))


def _split(node: NodeProto, x: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
    return torch.split(x, sizes.tolist(), attribute(node, "axis", 0))


def _unsqueeze(_: NodeProto, x: Tensor, axes: Tensor) -> Tensor:
    for axis in sorted(axes.tolist()):
        x = x.unsqueeze(axis)
    return x


OPERATORS: Mapping[str, Callable[..., Tensor | tuple[Tensor, ...]]] = {
    "Add": lambda _, x, y: x + y,
    "AveragePool": lambda node, x: _pool(node, x, largest=False),
    "Clip": lambda _, x, low, high: torch.clamp(x, low, high),
    "Concat": lambda node, *parts: torch.cat(parts, attribute(node, "axis", 0)),
    "Conv": convolve,
    "DepthToSpace": lambda node, x: functional.pixel_shuffle(x, attribute(node, "blocksize", 1)),
    "Div": lambda _, x, y: x / y,
    "Exp": lambda _, x: x.exp(),
    "Gelu": lambda _, x: functional.gelu(x),
    "LeakyRelu": lambda node, x: functional.leaky_relu(x, attribute(node, "alpha", 0.01)),
    "MaxPool": lambda node, x: _pool(node, x, largest=True),
    "Mul": lambda _, x, y: x * y,
    "PRelu": _prelu,
    "Pow": lambda _, x, y: x**y,
    "ReduceMean": _mean,
    "Relu": lambda _, x: functional.relu(x),
    "Reshape": lambda _, x, sizes: x.reshape([int(size) or x.shape[axis] for axis, size in enumerate(sizes)]),
    "Resize": _resize,
    "Shape": lambda node, x: torch.tensor(x.shape[attribute(node, "start", 0) : attribute(node, "end", x.ndim)]),
    "Sigmoid": lambda _, x: x.sigmoid(),
    "Slice": _slice,
    "Split": _split,
    "Sqrt": lambda _, x: x.sqrt(),
    "Sub": lambda _, x, y: x - y,
    "Tanh": lambda _, x: x.tanh(),
    "Transpose": lambda node, x: x.permute(attribute(node, "perm", [])),
    "Unsqueeze": _unsqueeze,
}
"""Those of the published networks."""
