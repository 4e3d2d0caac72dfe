"""Which nodes of an fp32 graph stay in fp32 in its fp16 form, and why."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper, shape_inference

from sr_deploy.arrays import Array
from sr_deploy.engines.facts import SUMS, SUMS_OVER_PIXELS
from sr_deploy.errors import ExportError

LARGEST_FP16 = 65504.0
LARGEST_ALLOWED = 32000.0
"""Half of fp16's range: what a picture outside the probes may add before anything overflows."""

_LARGEST_WEIGHT_ERROR = 2e-3
"""Relative rounding error of a weight tensor as a whole: 2e-4 is normal, far more means values below fp16's normal range."""

_SQUARES = {"Pow", "Mul", "Abs", "Sub"}
_MATRIX = {"Conv", "ConvTranspose", "MatMul", "Gemm"}


class GraphIndex:
    """A graph with its Constant nodes as initializers, and who makes, reads and carries what."""

    def __init__(self, model: ModelProto) -> None:
        self.model = ModelProto()
        self.model.CopyFrom(model)
        graph = self.model.graph
        _hoist_constants(graph)
        self.nodes = list(graph.node)
        self.opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
        self.weights = {tensor.name: tensor for tensor in graph.initializer}
        self.types = _element_types(self.model)
        self.maker = {name: node for node in self.nodes for name in node.output if name}
        self.readers: dict[str, list[NodeProto]] = {}
        for node in self.nodes:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        self.pixels = self._pixel_tensors()

    def _pixel_tensors(self) -> set[str]:
        """Tensors that carry pixel data; what comes from shapes and constants alone does not."""
        found = {value.name for value in self.model.graph.input if value.name not in self.weights}
        for node in self.nodes:
            if node.op_type not in ("Shape", "Size") and any(name in found for name in node.input):
                found.update(name for name in node.output if name)
        return found

    def is_float(self, name: str) -> bool:
        return self.types.get(name) == TensorProto.FLOAT

    def float_inputs(self, node: NodeProto) -> list[str]:
        """Inputs that follow the node's precision: fp32 now, and not fp32 by definition."""
        names = enumerate(node.input)
        return [name for position, name in names if name and self.is_float(name) and not self.is_fixed(node, position)]

    def is_fixed(self, node: NodeProto, position: int) -> bool:
        """Whether ONNX defines this input as fp32 whatever the node computes in, as Resize's scales."""
        if node.op_type == "Resize":
            return position in (1, 2)
        schema = onnx.defs.get_schema(node.op_type, self.opset, "")
        return schema.inputs[min(position, len(schema.inputs) - 1)].type_str == "tensor(float)"

    def takes_fp16(self, node: NodeProto) -> bool:
        if node.domain not in ("", "ai.onnx"):
            return False
        schema = onnx.defs.get_schema(node.op_type, self.opset, "")
        allowed = {item.type_param_str: set(item.allowed_type_strs) for item in schema.type_constraints}
        ports = [port.type_str for port in (*schema.inputs, *schema.outputs)]
        return all("tensor(float16)" in allowed[port] for port in ports if "tensor(float)" in allowed.get(port, ()))


def _hoist_constants(graph: onnx.GraphProto) -> None:
    nodes = []
    for node in graph.node:
        if any(item.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for item in node.attribute):
            raise ExportError(f"'{node.name}' ({node.op_type}) is control flow; the fp16 form needs a graph without branches")
        tensor = next((item.t for item in node.attribute if item.name == "value"), None)
        if node.op_type == "Constant" and tensor is not None:
            hoisted = graph.initializer.add()
            hoisted.CopyFrom(tensor)
            hoisted.name = node.output[0]
        else:
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


def _element_types(model: ModelProto) -> dict[str, int]:
    inferred = shape_inference.infer_shapes(model, data_prop=True).graph
    types = {tensor.name: int(tensor.data_type) for tensor in inferred.initializer}
    for value in (*inferred.input, *inferred.output, *inferred.value_info):
        types[value.name] = value.type.tensor_type.elem_type
    return types


def select(graph: GraphIndex, activations: Mapping[str, float]) -> dict[str, str]:
    """The name of each node that stays, and the reason; `activations` as in `to_fp16`."""
    kept: dict[str, str] = {}
    for node in graph.nodes:
        if any(name in graph.pixels for name in node.output):
            reason = _reason(graph, node, activations)
            if reason:
                kept[node.name] = reason
    _add_around_reductions(graph, kept)
    _add_behind_exponentials(graph, kept)
    _add_bridges(graph, kept)
    return {node.name: kept[node.name] for node in graph.nodes if node.name in kept}


def _reason(graph: GraphIndex, node: NodeProto, activations: Mapping[str, float]) -> str:
    floats = [name for name in (*node.input, *node.output) if graph.is_float(name)]
    largest = max((activations.get(name, 0.0) for name in floats), default=0.0)
    if not floats:
        return ""
    if not graph.takes_fp16(node):
        return f"{node.op_type} is not defined for fp16"
    if largest > LARGEST_ALLOWED:
        return f"values up to {largest:.3g}"
    for name in graph.float_inputs(node):
        if name in graph.weights:
            trouble = _weight_trouble(numpy_helper.to_array(graph.weights[name]))
            if trouble:
                return f"{name}: {trouble}"
    return "mean over all pixels" if _reduces_pixels(graph, node) else ""


def _weight_trouble(weight: Array) -> str:
    largest = float(np.abs(weight).max(initial=0.0))
    if largest > LARGEST_FP16:
        return f"weights up to {largest:.3g}"
    if not largest or not np.isfinite(largest):
        return ""
    error = float(np.linalg.norm(weight - weight.astype(np.float16).astype(np.float32)) / np.linalg.norm(weight))
    return f"weights too small, fp16 would round them by {error:.1%}" if error > _LARGEST_WEIGHT_ERROR else ""


def _reduces_pixels(graph: GraphIndex, node: NodeProto) -> bool:
    if node.op_type in SUMS_OVER_PIXELS:
        return True
    if node.op_type not in SUMS:
        return False
    axes = next((list(item.ints) for item in node.attribute if item.name == "axes"), None)
    if axes is None and len(node.input) > 1 and node.input[1] in graph.weights:
        axes = numpy_helper.to_array(graph.weights[node.input[1]]).tolist()
    return not axes or any(axis in (2, 3, -1, -2) for axis in axes)


def _add_around_reductions(graph: GraphIndex, kept: dict[str, str]) -> None:
    """Squares and differences before a reduction, and the element-wise arithmetic on its few results."""
    reduced: set[str] = set()
    for node in graph.nodes:
        if node.name in kept and _reduces_pixels(graph, node):
            reduced.update(node.output)
            _add_feeding(graph, node, kept)
        elif node.op_type not in _MATRIX and any(name in reduced for name in node.input):
            rest = [name for name in node.input if name in graph.pixels and name not in reduced]
            if not rest:
                reduced.update(node.output)
                if any(graph.is_float(name) for name in node.output):
                    kept.setdefault(node.name, "computes with means over all pixels")


def _add_feeding(graph: GraphIndex, node: NodeProto, kept: dict[str, str]) -> None:
    maker = graph.maker.get(node.input[0])
    while maker is not None and maker.op_type in _SQUARES and maker.name not in kept:
        square = maker.op_type in ("Pow", "Abs") or maker.op_type == "Sub" or maker.input[0] == maker.input[1]
        if not square:
            return
        kept[maker.name] = "feeds a mean over all pixels"
        if maker.op_type == "Sub":
            return
        maker = graph.maker.get(maker.input[0])


def _add_behind_exponentials(graph: GraphIndex, kept: dict[str, str]) -> None:
    """Exponentials, and what is computed with them up to the division that makes ordinary values of them again."""
    grown: set[str] = set()
    for node in graph.nodes:
        reads = any(name in grown for name in node.input) and node.op_type not in _MATRIX
        if node.op_type == "Exp" and node.input[0] in graph.pixels:
            kept.setdefault(node.name, "an exponential, which fp16 loses below -17 and above 11")
        elif reads and any(graph.is_float(name) for name in node.output):
            kept.setdefault(node.name, "computes with exponentials")
        else:
            continue
        if node.op_type != "Div":
            grown.update(node.output)


def _add_bridges(graph: GraphIndex, kept: dict[str, str]) -> None:
    """Cheap nodes between two kept ones, so that no value goes through fp16 and back."""
    changed = True
    while changed:
        changed = False
        for node in graph.nodes:
            if node.name in kept or node.op_type in _MATRIX or not any(graph.is_float(name) for name in node.output):
                continue
            before = any(graph.is_float(name) and _made_by(graph, name) in kept for name in node.input)
            after = any(reader.name in kept for name in node.output for reader in graph.readers.get(name, ()))
            if before and after and any(name in graph.pixels for name in node.output):
                kept[node.name] = "between two nodes in fp32"
                changed = True


def _made_by(graph: GraphIndex, name: str) -> str:
    return graph.maker[name].name if name in graph.maker else ""
