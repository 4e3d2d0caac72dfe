"""Small image graphs, made on the spot, with weights near the identity so that their output looks like their input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from sr_deploy.bundle import Bundle, sha256_of
from sr_deploy.card import GRAPH_METADATA_KEY, GraphCard, Masked, ModelCard


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


def masked_graphs(
    *, scale: int = 2, channels: int = 3, float_type: int = TensorProto.FLOAT, opset: int = 20
) -> tuple[ModelProto, ModelProto]:
    """Base and refine network of a mask-guided one, with patches of 4 and a border of 1.

    The base is an `image_graph` whose two first convolutions give the features; a patch's score is its mean darkness. The
    refine network is a 3x3 convolution of the patch and a pixel shuffle: about a nearest-neighbor upscale, and a bit darker.
    """
    base = image_graph(scale=scale, channels=channels, float_type=float_type, noise=0.02, opset=opset)
    graph = base.graph
    _rename(base, {"output": "coarse", "conv1": "features"})
    graph.node.append(helper.make_node("AveragePool", ["features"], ["pooled"], kernel_shape=[4, 4], strides=[4, 4]))
    dtype = helper.tensor_dtype_to_np_dtype(float_type)
    graph.initializer.append(numpy_helper.from_array(np.full((1, channels, 1, 1), -1 / channels, dtype), "darkness"))
    graph.node.append(helper.make_node("Conv", ["pooled", "darkness"], ["scores"]))
    sizes = {"features": [channels, "height", "width"], "scores": [1, "rows", "columns"]}
    graph.output.extend(helper.make_tensor_value_info(name, float_type, ["batch", *dims]) for name, dims in sizes.items())
    refine = image_graph(scale=scale, channels=channels, float_type=float_type, depth=0, gain=0.9, noise=0.02, opset=opset)
    _rename(refine, {"input": "patches", "output": "pixels"})
    last = next(node for node in refine.graph.node if node.op_type == "Conv")
    next(item for item in last.attribute if item.name == "pads").ints[:] = [0, 0, 0, 0]
    for value, side in ((refine.graph.input[0], 6), (refine.graph.output[0], 4 * scale)):
        value.CopyFrom(helper.make_tensor_value_info(value.name, float_type, ["count", channels, side, side]))
    for model in (base, refine):
        onnx.checker.check_model(model, full_check=True)
    return base, refine


def _rename(model: ModelProto, names: dict[str, str]) -> None:
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for value in (*model.graph.input, *model.graph.output):
        value.name = names.get(value.name, value.name)


def masked_bundle(folder: Path, **options: int) -> Bundle:
    """A bundle of `masked_graphs` in both precisions, without probe and certificate; it stands in `folder`."""
    scale = options.get("scale", 2)
    masked = Masked(patch=4, padding=1, features=3, macs=0, activation_bytes=6 * 6 * 3 * 4)
    facts = {"tiling": "exact", "halo": 8, "min_size": 4, "size_multiple": 4, "activation_bytes": 4 * 3 * scale**2}
    card = ModelCard("masked", "test", scale, 3, masked=masked, **facts)  # type: ignore[arg-type]
    graphs: dict[str, GraphCard] = {}
    for precision, float_type in (("fp32", TensorProto.FLOAT), ("fp16", TensorProto.FLOAT16)):
        for part, model in zip(("base", "refine"), masked_graphs(float_type=float_type, **options), strict=True):
            helper.set_model_props(model, {GRAPH_METADATA_KEY: card.to_json()})
            path = save(model, folder, f"{part}-{precision}.onnx")
            graphs[f"{part}-{precision}"] = GraphCard(path.name, "fp32" if precision == "fp32" else "fp16", sha256_of(path), 20)
    bundle = Bundle(folder, card, graphs)
    bundle.write_card()
    return bundle
