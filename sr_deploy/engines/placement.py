"""Which nodes of a graph a session runs on the CPU beside a GPU, and what that costs: bytes that cross to the host and back."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, ValueInfoProto, helper, shape_inference

from sr_deploy.errors import warn_once

_log = logging.getLogger(__name__)

_FRAME = (540, 960)
"""Bytes are told for a frame of that height and width."""

_CPU = "CPUExecutionProvider"
_INTEGERS = (TensorProto.INT32, TensorProto.INT64, TensorProto.BOOL)
_OLDEST = (1, 25)
_NAMED = 4
"""So many nodes are named, and the rest counted."""

_UPGRADE = 'install ONNX Runtime 1.25 or newer with `pip install -U "sr-deploy[cuda]"`'


def warn_of_strays(graph: bytes, session: Any, description: str, version: str) -> None:
    """Log once, as a warning, which nodes but shape arithmetic the session of that graph runs on the CPU.

    session: one of ONNX Runtime of that version with a GPU's provider, made with `session.record_ep_graph_assignment_info`. A
    version before 1.25 is told without a look: it resizes on the CPU, and does not tell of what it casts from fp16 for that.
    """
    if tuple(int(part) for part in version.split(".")[:2]) < _OLDEST:
        warn_once(_log, f"{description}: ONNX Runtime {version} runs the Resize of opset 19 and 20 on the CPU; {_UPGRADE}")
        return
    parts = session.get_provider_graph_assignment_info()
    nodes = [(node.name, node.op_type) for part in parts if part.ep_name == _CPU for node in part.get_nodes()]
    strays = stray_nodes(graph, nodes)
    if strays:
        warn_once(_log, _told(strays, description))


def stray_nodes(graph: bytes, nodes: Sequence[tuple[str, str]]) -> list[tuple[str, int]]:
    """Those of the nodes, given by name and operator, that do more than shape arithmetic, with the bytes of their inputs and
    outputs for one frame; tensors of unknown shape count as none.

    Shape arithmetic makes whole numbers of rank 0 or 1. Nodes that the graph does not have are the runtime's own, and no
    strays; of nodes without a name that have one operator all must be.
    """
    if not nodes:
        return []
    model = _inferred(graph)
    values = {value.name: value for value in (*model.graph.value_info, *model.graph.input, *model.graph.output)}
    strays = []
    for name, operator in dict.fromkeys(nodes):
        alike = [node for node in model.graph.node if (node.name, node.op_type) == (name, operator)]
        if alike and not any(_is_shape_arithmetic(values.get(output)) for node in alike for output in node.output):
            edges = dict.fromkeys(edge for node in alike for edge in (*node.input, *node.output))
            strays.append((f"{name or alike[0].output[0]} ({operator})", sum(_bytes(values.get(edge)) for edge in edges)))
    return strays


def _told(strays: Sequence[tuple[str, int]], description: str) -> str:
    height, width = _FRAME
    named = ", ".join(name for name, _ in strays[:_NAMED]) + (f" and {len(strays) - _NAMED} more" if strays[_NAMED:] else "")
    megabytes = sum(size for _, size in strays) / 1e6
    return (
        f"{description}: runs on the CPU: {named}; {megabytes:.1f} MB of a frame of {width}x{height} cross to the host and "
        f"back each time; {_UPGRADE}, or use another backend"
    )


def _inferred(graph: bytes) -> ModelProto:
    """The graph with all shapes that follow from one frame."""
    model = onnx.load_from_string(graph)
    for value in model.graph.input:
        _set_frame(value)
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    return shape_inference.infer_shapes(model, data_prop=True)


def _set_frame(value: ValueInfoProto) -> None:
    tensor = value.type.tensor_type
    sides = tensor.shape.dim
    if len(sides) != 4:
        return
    height, width = (1, 2) if tensor.elem_type == TensorProto.UINT8 else (2, 3)
    for axis, size in {0: 1, height: _FRAME[0], width: _FRAME[1]}.items():
        if not sides[axis].HasField("dim_value"):
            sides[axis].dim_value = size


def _is_shape_arithmetic(value: ValueInfoProto | None) -> bool:
    if value is None:
        return False
    tensor = value.type.tensor_type
    return tensor.elem_type in _INTEGERS and tensor.HasField("shape") and len(tensor.shape.dim) <= 1


def _bytes(value: ValueInfoProto | None) -> int:
    """Of a tensor that is no weight; 0 where its shape is unknown."""
    if value is None:
        return 0
    tensor = value.type.tensor_type
    if not tensor.HasField("shape") or not all(side.HasField("dim_value") for side in tensor.shape.dim):
        return 0
    sides: list[int] = [side.dim_value for side in tensor.shape.dim]
    return math.prod(sides) * np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type)).itemsize
