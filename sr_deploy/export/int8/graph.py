"""fp32 graph -> the same with Q and DQ around the convs that are computed in 8 bits."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, helper, numpy_helper

from sr_deploy.errors import ExportError, first_line
from sr_deploy.export.int8.calibration import Quantizer
from sr_deploy.export.int8.rounding import QuantizedWeights


def to_int8(model: ModelProto, weights: Mapping[str, QuantizedWeights], quantizers: Mapping[str, Quantizer]) -> ModelProto:
    """The graph whose convs of `weights`, by their names, multiply codes of 8 bits; `model` itself is left alone.

    quantizers: of the tensors in front of these convs, by name. Input and output stay fp32.

    Raises: ExportError when ONNX's checker refuses the result.
    """
    result = ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    nodes: list[NodeProto] = []
    quantized: set[str] = set()
    for node in model.graph.node:
        if node.name not in weights:
            nodes.append(node)
            continue
        source = node.input[0]
        if source not in quantized:
            nodes += _activation_nodes(result, source, quantizers[source])
            quantized.add(source)
        nodes += _conv_nodes(result, node, weights[node.name])
    del graph.node[:]
    graph.node.extend(nodes)
    _drop_unread_weights(result)
    try:
        onnx.checker.check_model(result, full_check=True)
    except Exception as exc:
        raise ExportError(f"ONNX's checker refuses the INT8 graph: {first_line(exc)}") from exc
    return result


def _activation_nodes(model: ModelProto, name: str, quantizer: Quantizer) -> list[NodeProto]:
    code = np.int8 if quantizer.symmetric else np.uint8
    scale, zero = f"{name}/scale", f"{name}/zero_point"
    model.graph.initializer.append(numpy_helper.from_array(np.array(quantizer.scale, np.float32), scale))
    model.graph.initializer.append(numpy_helper.from_array(np.array(quantizer.zero_point, code), zero))
    codes, values, source, nodes = f"{name}/codes", f"{name}/dequantized", name, []
    if quantizer.balance is not None:
        factors, source = f"{name}/balance", f"{name}/balanced"
        model.graph.initializer.append(numpy_helper.from_array(quantizer.balance[None, :, None, None], factors))
        nodes = [helper.make_node("Mul", [name, factors], [source], name=f"{name}/Mul")]
    return [
        *nodes,
        helper.make_node("QuantizeLinear", [source, scale, zero], [codes], name=f"{name}/QuantizeLinear"),
        helper.make_node("DequantizeLinear", [codes, scale, zero], [values], name=f"{name}/DequantizeLinear"),
    ]


def _conv_nodes(model: ModelProto, conv: NodeProto, weights: QuantizedWeights) -> list[NodeProto]:
    stem = f"{conv.name}/weight"
    names = {part: f"{stem}/{part}" for part in ("codes", "scales", "zero_points", "dequantized", "bias")}
    arrays = {
        "codes": weights.codes,
        "scales": weights.scales,
        "zero_points": np.zeros(len(weights.scales), np.int8),
        "bias": weights.bias,
    }
    model.graph.initializer.extend(numpy_helper.from_array(array, names[part]) for part, array in arrays.items())
    sources = [names["codes"], names["scales"], names["zero_points"]]
    changed = NodeProto()
    changed.CopyFrom(conv)
    del changed.input[:]
    changed.input.extend([f"{conv.input[0]}/dequantized", names["dequantized"], names["bias"]])
    return [
        helper.make_node("DequantizeLinear", sources, [names["dequantized"]], name=f"{stem}/DequantizeLinear", axis=0),
        changed,
    ]


def _drop_unread_weights(model: ModelProto) -> None:
    read = {name for node in model.graph.node for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in read]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
