"""The ports of a foreign image graph, and the graph with those of a portable one: an image in RGB or luma on both sides."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from onnx import ModelProto, TensorProto, compose, helper, numpy_helper

from sr_deploy.arrays import Array
from sr_deploy.engines.facts import infer_shapes
from sr_deploy.engines.graph_file import check_sizes
from sr_deploy.engines.pixels import modern
from sr_deploy.errors import BundleError, EngineError

MAX_SCALE = 16
PORT_TYPES = {TensorProto.FLOAT: "float32", TensorProto.FLOAT16: "float16", TensorProto.UINT8: "uint8"}
"""What an image may come in and go out as, and what it is called."""

_PortLayout = Literal["NCHW", "NHWC"]
_NEAR, _FAR = (192, 256), (320, 384)
"""Height and width of two images, multiples of 64, by which scale and border are found without running."""


@dataclass(frozen=True)
class Ports:
    """What goes in and out of the file's graph."""

    source: str
    target: str
    source_type: int
    target_type: int


def ports_of(path: Path, model: ModelProto) -> tuple[Ports, list[int | None]]:
    """The ports, and the declared sizes of the input."""
    weights = {tensor.name for tensor in model.graph.initializer}
    sources = [value for value in model.graph.input if value.name not in weights]
    if len(sources) != 1 or len(model.graph.output) != 1:
        raise BundleError(
            f"{path}: has {len(sources)} inputs and {len(model.graph.output)} outputs; expected one image in and one out"
        )
    source, target = sources[0], model.graph.output[0]
    kinds = [value.type.tensor_type.elem_type for value in (source, target)]
    shape = source.type.tensor_type.shape.dim
    if not set(kinds) <= PORT_TYPES.keys() or (source.type.tensor_type.HasField("shape") and len(shape) != 4):
        raise BundleError(
            f"{path}: its input is not (N,C,H,W) or (N,H,W,C) in fp32, fp16 or uint8; expected an image in one of these layouts"
        )
    dims = [dim.dim_value if dim.HasField("dim_value") else None for dim in shape] or [None] * 4
    return Ports(source.name, target.name, *kinds), dims


def readings_of(path: Path, dims: list[int | None]) -> list[tuple[_PortLayout, int]]:
    """What the declared sizes leave open, the likeliest first."""
    axes: tuple[tuple[_PortLayout, int, int], ...] = (("NCHW", 1, 3), ("NHWC", 3, 1))
    declared = [(layout, size) for layout, axis, _ in axes if (size := dims[axis]) in (1, 3)]
    undeclared = [
        (layout, channels) for layout, axis, other in axes for channels in (3, 1) if dims[axis] is None and dims[other] is None
    ]
    if readings := declared or undeclared:
        return readings
    raise BundleError(f"{path}: takes {dims[1] or dims[3]} channels; expected 3 (RGB) or 1 (luma)")


def portable_form(model: ModelProto, ports: Ports, layout: _PortLayout, channels: int) -> tuple[ModelProto, int]:
    """The graph with an image in RGB or luma on both sides, and its scale; `model` itself where nothing is to be changed.

    Raises: EngineError, BundleError when the shapes do not follow, or are no whole multiples.
    """
    plain = _relaxed(model, ports, layout, channels)
    shapes = [_image_shapes(plain, layout, size) for size in (_NEAR, _FAR)]
    check_sizes(plain, shapes[0], where="the graph")
    near, far = (shape[plain.graph.output[0].name] for shape in shapes)
    out: _PortLayout = "NCHW" if len(near) == 4 and near[1] == channels else "NHWC"
    if len(near) != 4 or near[{"NCHW": 1, "NHWC": 3}[out]] != channels:
        raise EngineError(f"makes {list(near)} of {channels} colors; expected an image of as many")
    (near_height, near_width), (far_height, far_width) = (size[2:] if out == "NCHW" else size[1:3] for size in (near, far))
    scale, rest = divmod(far_height - near_height, _FAR[0] - _NEAR[0])
    border = scale * _NEAR[0] - near_height
    even = (far_width - near_width, scale * _NEAR[1] - near_width) == (scale * (_FAR[1] - _NEAR[1]), border)
    if rest or not 1 <= scale <= MAX_SCALE or border < 0 or border % (2 * scale) or not even:
        raise EngineError(
            f"makes {near_width}x{near_height} pixels of {_NEAR[1]}x{_NEAR[0]}, which is no whole multiple, nor one with as "
            "much cut off on each side; expected a network that upscales by a whole number"
        )
    is_plain = (ports.source_type, ports.target_type) == (TensorProto.FLOAT, TensorProto.FLOAT)
    if is_plain and layout == out == "NCHW" and border == 0:
        sides = (_source_of(model, ports), model.graph.output[0])
        declared = [[dim.dim_value for dim in side.type.tensor_type.shape.dim[1:]] for side in sides]
        plain.graph.output[0].type.tensor_type.shape.dim[1].dim_value = channels
        as_it_is = len(model.graph.input) == 1 and declared == [[channels, 0, 0]] * 2
        return (model if as_it_is else plain), scale
    return _wrapped(plain, ports, layout, out, channels, border // (2 * scale)), scale


def _source_of(model: ModelProto, ports: Ports) -> Any:
    return next(value for value in model.graph.input if value.name == ports.source)


def _relaxed(model: ModelProto, ports: Ports, layout: _PortLayout, channels: int) -> ModelProto:
    """A copy whose ports leave number, height and width open, with the image as the only input."""
    result = ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    sizes: list[str | int | None]
    sizes = ["batch", channels, "height", "width"] if layout == "NCHW" else ["batch", "height", "width", channels]
    del graph.input[:], graph.output[:], graph.value_info[:]
    graph.input.append(helper.make_tensor_value_info(ports.source, ports.source_type, sizes))
    outside = ["batch_out", None, None, None]
    graph.output.append(helper.make_tensor_value_info(ports.target, ports.target_type, outside))
    return result


def _image_shapes(model: ModelProto, layout: _PortLayout, size: tuple[int, int]) -> dict[str, tuple[int, ...]]:
    height, width = size
    if layout == "NCHW":
        return infer_shapes(model, height, width)
    sized = ModelProto()
    sized.CopyFrom(model)
    for dim, side in zip(sized.graph.input[0].type.tensor_type.shape.dim, (1, height, width), strict=False):
        dim.dim_value = side
    channels = sized.graph.input[0].type.tensor_type.shape.dim[3].dim_value
    return infer_shapes(sized, width, channels)


def _wrapped(model: ModelProto, ports: Ports, layout: _PortLayout, out: _PortLayout, channels: int, pad: int) -> ModelProto:
    result = compose.add_prefix(modern(model), "theirs/")
    graph = result.graph
    constants: dict[str, Array] = {}
    before, name = [], "input"

    def step(kind: str, source: str, target: str, *constant: str, **attributes: Any) -> str:
        before.append(helper.make_node(kind, [source, *constant], [target], name=f"ports/{target}", **attributes))
        return target

    if pad:
        constants["pads"] = np.array([0, 0, pad, pad, 0, 0, pad, pad], np.int64)
        name = step("Pad", name, "padded", "pads", mode="edge")
    if ports.source_type == TensorProto.UINT8:
        constants |= {"255": np.array(255, np.float32), "0": np.array(0, np.float32)}
        name = step("Mul", name, "levels", "255")
        name = step("Round", name, "rounded")
        name = step("Clip", name, "clipped", "0", "255")
    if ports.source_type != TensorProto.FLOAT:
        name = step("Cast", name, "cast", to=ports.source_type)
    if layout == "NHWC":
        name = step("Transpose", name, "interleaved", perm=[0, 2, 3, 1])
    before.append(helper.make_node("Identity", [name], [graph.input[0].name], name="ports/source"))
    entry, before = before, []
    name = graph.output[0].name
    if out == "NHWC":
        name = step("Transpose", name, "planar", perm=[0, 3, 1, 2])
    if ports.target_type != TensorProto.FLOAT:
        name = step("Cast", name, "float", to=TensorProto.FLOAT)
    if ports.target_type == TensorProto.UINT8:
        constants["255"] = np.array(255, np.float32)
        name = step("Div", name, "unit", "255")
    before.append(helper.make_node("Identity", [name], ["output"], name="ports/target"))
    nodes = [*entry, *graph.node, *before]
    del graph.node[:], graph.input[:], graph.output[:]
    graph.node.extend(nodes)
    graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
    graph.input.append(helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", channels, "height", "width"]))
    graph.output.append(helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", channels, None, None]))
    return result
