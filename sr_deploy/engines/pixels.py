"""Graph surgery: from a portable graph to its pixel form.

    portable    input (N,C,H,W) float in [0,1]   ->  output (N,C,sH,sW) float in [0,1]
    pixel form  pixels (N,H,W,C) uint8           ->  upscaled (N,sH,sW,C) uint8, health (N,) float32

The pixel form moves a quarter of the bytes and does clamping and rounding where the pixels are. `health` is the mean of
|output before the clamp|: one NaN or Inf anywhere makes it non-finite, in every runtime.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from sr_deploy.errors import EngineError

INPUT, OUTPUT, HEALTH = "pixels", "upscaled", "health"


def to_pixel_form(model: ModelProto) -> ModelProto:
    """The pixel form of a portable graph; `model` itself is left alone.

    TensorRT takes uint8 only where Cast is the first node and gives it only where Cast is the last, and its Cast truncates,
    hence the order Cast, Transpose, Mul, network, Mul, Round, Clip, Transpose, Cast.

    Raises: EngineError when the graph has not one float input and one output of four dimensions.
    """
    source, target = _image_ports(model)
    float_type = source.type.tensor_type.elem_type
    network = list(model.graph.node)
    unclamped = _unclamped_output(network, target.name)
    batch, channels, height, width = (_dim(dim) for dim in source.type.tensor_type.shape.dim)
    _, _, out_height, out_width = (_dim(dim) for dim in target.type.tensor_type.shape.dim)
    form = ModelProto()
    form.CopyFrom(model)
    graph = form.graph
    del graph.node[:], graph.input[:], graph.output[:]
    graph.node.extend(_to_float(source.name, float_type))
    graph.node.extend(node for node in network if target.name not in node.output or unclamped == target.name)
    graph.node.extend(_to_pixels(unclamped))
    graph.node.extend(_health(unclamped))
    graph.initializer.extend(_constants(float_type))
    graph.input.append(helper.make_tensor_value_info(INPUT, TensorProto.UINT8, [batch, height, width, channels]))
    graph.output.extend(
        [
            helper.make_tensor_value_info(OUTPUT, TensorProto.UINT8, [batch, out_height, out_width, channels]),
            helper.make_tensor_value_info(HEALTH, TensorProto.FLOAT, [batch]),
        ]
    )
    return form


def _to_float(source: str, float_type: int) -> list[NodeProto]:
    return [
        _node("Cast", [INPUT], _own("interleaved_float"), to=float_type),
        _node("Transpose", [_own("interleaved_float")], _own("planar_float"), perm=[0, 3, 1, 2]),
        _node("Mul", [_own("planar_float"), _own("1/255")], source),
    ]


def _to_pixels(unclamped: str) -> list[NodeProto]:
    return [
        _node("Mul", [unclamped, _own("255")], _own("scaled")),
        _node("Round", [_own("scaled")], _own("rounded")),
        _node("Clip", [_own("rounded"), _own("0"), _own("255")], _own("clipped")),
        _node("Transpose", [_own("clipped")], _own("interleaved"), perm=[0, 2, 3, 1]),
        _node("Cast", [_own("interleaved")], OUTPUT, to=TensorProto.UINT8),
    ]


def _health(unclamped: str) -> list[NodeProto]:
    return [
        _node("Abs", [unclamped], _own("magnitude")),
        _node("Cast", [_own("magnitude")], _own("magnitude_fp32"), to=TensorProto.FLOAT),
        _node("ReduceMean", [_own("magnitude_fp32"), _own("axes")], HEALTH, keepdims=0),
    ]


def _constants(float_type: int) -> list[TensorProto]:
    dtype = helper.tensor_dtype_to_np_dtype(float_type)
    scalars = {"1/255": 1 / 255, "255": 255.0, "0": 0.0}
    return [
        *(numpy_helper.from_array(np.array(value, dtype), _own(name)) for name, value in scalars.items()),
        numpy_helper.from_array(np.array([1, 2, 3]), _own("axes")),
    ]


def _image_ports(model: ModelProto) -> tuple[onnx.ValueInfoProto, onnx.ValueInfoProto]:
    weights = {tensor.name for tensor in model.graph.initializer}
    sources = [value for value in model.graph.input if value.name not in weights]
    if len(sources) != 1 or len(model.graph.output) != 1:
        raise EngineError(
            f"the graph has {len(sources)} inputs and {len(model.graph.output)} outputs; the pixel form needs one of each"
        )
    source, target = sources[0], model.graph.output[0]
    for value in (source, target):
        tensor = value.type.tensor_type
        if tensor.elem_type not in (TensorProto.FLOAT, TensorProto.FLOAT16) or len(tensor.shape.dim) != 4:
            raise EngineError(f"'{value.name}' is not a float (N,C,H,W) tensor; the pixel form needs one")
    return source, target


def _unclamped_output(nodes: list[NodeProto], target: str) -> str:
    """Name of the tensor before the final clamp, or of the output when there is none."""
    last = next(node for node in nodes if target in node.output)
    read_elsewhere = any(target in node.input for node in nodes)
    return last.input[0] if last.op_type == "Clip" and not read_elsewhere else target


def _own(name: str) -> str:
    return f"pixel_form.{name}"


def _node(kind: str, inputs: list[str], output: str, **attributes: Any) -> NodeProto:
    return helper.make_node(kind, inputs, [output], name=_own(f"{kind}.{output}"), **attributes)


def _dim(dim: onnx.TensorShapeProto.Dimension) -> int | str | None:
    if dim.HasField("dim_value"):
        return int(dim.dim_value)
    return str(dim.dim_param) or None
