"""Channels between two convs brought to the same range, exactly: what one is multiplied with, the next is divided by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from onnx import ModelProto, NodeProto, numpy_helper

from sr_deploy.arrays import Array
from sr_deploy.engines.facts import attribute
from sr_deploy.export.int8.calibration import ChannelRanges
from sr_deploy.export.kept import GraphIndex

_HOMOGENEOUS = {"Relu", "LeakyRelu", "PRelu"}
"""f(s * x) = s * f(x) for s > 0."""

_BALANCE = 0.5
"""Of the range of values against that of the weights that they are multiplied with."""


def equalize(model: ModelProto, ranges: Mapping[str, ChannelRanges]) -> ModelProto:
    """The same function, whose channels between two convs are about as large as each other.

    ranges: of the tensors that `equalizable` names.

    Source: Nagel et al., Data-Free Quantization, 2019, section 4.1; Xiao et al., SmoothQuant, 2023, section 4 (balance).
    """
    result = ModelProto()
    result.CopyFrom(model)
    tensors = {tensor.name: tensor for tensor in result.graph.initializer}
    arrays = {name: np.array(numpy_helper.to_array(tensor)) for name, tensor in tensors.items()}
    for tensor, (before, after) in _pairs(GraphIndex(model)).items():
        factors = balance_of(ranges[tensor].peaks, [arrays[after.input[1]]])
        arrays[after.input[1]] = arrays[after.input[1]] / factors[None, :, None, None]
        arrays[before.input[1]] = arrays[before.input[1]] * factors[:, None, None, None]
        if len(before.input) > 2:
            arrays[before.input[2]] = arrays[before.input[2]] * factors
    for name, tensor in tensors.items():
        tensor.CopyFrom(numpy_helper.from_array(arrays[name].astype(numpy_helper.to_array(tensor).dtype), name))
    return result


def balance_of(peaks: Array, weights: Sequence[Array]) -> Array:
    """Factors (C,) float32 of channels, around 1, that make large values smaller and the weights behind them larger.

    peaks: largest absolute value of each channel; weights: of the convs that read them, each (O, C, kh, kw).
    """
    reach = np.max([np.abs(weight).max(axis=(0, 2, 3)) for weight in weights], axis=0)
    known = (peaks > 0) & (reach > 0)
    logs = (1 - _BALANCE) * np.log(reach[known]) - _BALANCE * np.log(peaks[known])
    factors = np.ones(len(peaks), np.float32)
    factors[known] = np.exp(logs - logs.mean()) if len(logs) else 1
    return factors


def makers_with_factors(model: ModelProto, names: Sequence[str]) -> set[str]:
    """Those of the tensors that a conv makes, alone or with what lets factors through: a runtime quantizes them with it."""
    graph = GraphIndex(model)
    found = set()
    for name in names:
        maker = graph.maker.get(name)
        while maker is not None and maker.op_type in _HOMOGENEOUS:
            maker = graph.maker.get(maker.input[0])
        if maker is not None and maker.op_type == "Conv":
            found.add(name)
    return found


def equalizable(model: ModelProto) -> Sequence[str]:
    """The tensors that only one conv reads, and one makes, with nothing between but what lets factors through."""
    return list(_pairs(GraphIndex(model)))


def _pairs(graph: GraphIndex) -> dict[str, tuple[NodeProto, NodeProto]]:
    """The convs before and behind each of these tensors."""
    used = [name for node in graph.nodes for name in node.input]
    found = {}
    for after in graph.nodes:
        if not _is_plain(graph, after):
            continue
        maker = graph.maker.get(after.input[0])
        alone = used.count(after.input[0]) == 1
        while maker is not None and maker.op_type in _HOMOGENEOUS and alone:
            alone = used.count(maker.input[0]) == 1
            maker = graph.maker.get(maker.input[0])
        shared = maker is not None and any(used.count(name) > 1 for name in (*maker.input[1:], after.input[1]))
        if maker is not None and alone and not shared and _is_plain(graph, maker):
            found[after.input[0]] = (maker, after)
    return found


def _is_plain(graph: GraphIndex, node: NodeProto) -> bool:
    """Whether it is a conv of one group with its own weights."""
    return node.op_type == "Conv" and attribute(node, "group", 1) == 1 and node.input[1] in graph.weights
