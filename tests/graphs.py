"""Small image graphs, made on the spot, with weights near the identity so that their output looks like their input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper


def image_graph(
    *,
    scale: int = 2,
    channels: int = 3,
    depth: int = 2,
    pooled: bool = False,
    float_type: int = TensorProto.FLOAT,
    gain: float = 1.0,
    noise: float = 0.002,
    opset: int = 20,
) -> ModelProto:
    """`depth` 3x3 convolutions, one to C*s*s channels, pixel shuffle, clamp; `pooled` multiplies by a global mean.

    The function is about a nearest-neighbor upscale times `gain`.
    """
    dtype = helper.tensor_dtype_to_np_dtype(float_type)
    random = np.random.default_rng(7)
    weights: list[TensorProto] = []
    nodes: list[NodeProto] = []

    def conv(source: str, inside: int, outside: int, name: str, factor: float = 1.0) -> str:
        kernel = random.normal(0, noise, (outside, inside, 3, 3))
        for row in range(outside):
            kernel[row, row * inside // outside, 1, 1] += factor
        weights.append(numpy_helper.from_array(kernel.astype(dtype), f"{name}.weight"))
        weights.append(numpy_helper.from_array(random.normal(0, noise, outside).astype(dtype), f"{name}.bias"))
        nodes.append(helper.make_node("Conv", [source, f"{name}.weight", f"{name}.bias"], [name], pads=[1, 1, 1, 1], name=name))
        return name

    tensor = "input"
    for index in range(depth):
        tensor = conv(tensor, channels, channels, f"conv{index}")
    if pooled:
        nodes.append(helper.make_node("GlobalAveragePool", [tensor], ["mean"], name="pool"))
        nodes.append(helper.make_node("Sigmoid", ["mean"], ["attention"], name="sigmoid"))
        nodes.append(helper.make_node("Mul", [tensor, "attention"], ["attended"], name="mul"))
        tensor, gain = "attended", gain * 1.6
    tensor = conv(tensor, channels, channels * scale * scale, "last", gain)
    nodes.append(helper.make_node("DepthToSpace", [tensor], ["shuffled"], blocksize=scale, mode="CRD", name="shuffle"))
    weights += [numpy_helper.from_array(np.array(value, dtype), str(value)) for value in (0.0, 1.0)]
    nodes.append(helper.make_node("Clip", ["shuffled", "0.0", "1.0"], ["output"], name="clamp"))
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("input", float_type, ["batch", channels, "height", "width"])],
        [helper.make_tensor_value_info("output", float_type, ["batch", channels, "height_out", "width_out"])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8 if opset < 19 else 10)
    onnx.checker.check_model(model, full_check=True)
    return model


def save(model: ModelProto, folder: Path, name: str = "network.onnx") -> Path:
    path = folder / name
    onnx.save(model, path)
    return path
