"""fp32 graph -> fp16 graph, keeping in fp32 exactly what fp16 cannot hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper, shape_inference

from sr_deploy.arrays import Array
from sr_deploy.engines.facts import SUMS, SUMS_OVER_PIXELS
from sr_deploy.errors import ExportError, first_line

LARGEST_FP16 = 65504.0
LARGEST_ALLOWED = 32000.0
"""Half of fp16's range: what a picture outside the probes may add before anything overflows."""

_LARGEST_WEIGHT_ERROR = 2e-3
"""Relative rounding error of a weight tensor as a whole: 2e-4 is normal, far more means values below fp16's normal range."""

_SQUARES = {"Pow", "Mul", "Abs", "Sub"}
_ANY_TYPE = {"Cast", "Shape", "Size"}
"""Read whatever precision a value has."""

_MATRIX = {"Conv", "ConvTranspose", "MatMul", "Gemm"}


@dataclass(frozen=True)
class HalfPrecision:
    """An fp16 graph; `kept` maps the name of each node that stayed in fp32 to the reason."""

    model: ModelProto
    kept: dict[str, str]


def to_fp16(model: ModelProto, activations: Mapping[str, float]) -> HalfPrecision:
    """The fp16 form of an fp32 graph, with fp16 input and output; `model` itself is left alone.

    `activations` has the largest absolute value of every float tensor, from `measure_activations`. In fp32 stay: nodes that
    write or read a value above LARGEST_ALLOWED, weights that fp16 cannot hold, reductions over all pixels with the
    differences and squares that feed them, exponentials up to their division, and operators that ONNX defines for fp32 only.
    Shape arithmetic is not touched.

    Raises: ExportError for graphs with control flow, or when ONNX's checker refuses the result.
    """
    graph = _GraphIndex(model)
    kept = _select(graph, activations)
    result = _rewrite(graph, kept)
    try:
        onnx.checker.check_model(result, full_check=True)
    except Exception as exc:
        raise ExportError(f"ONNX's checker refuses the fp16 graph: {first_line(exc)}") from exc
    return HalfPrecision(result, kept)


class _GraphIndex:
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


# Which nodes stay.


def _select(graph: _GraphIndex, activations: Mapping[str, float]) -> dict[str, str]:
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


def _reason(graph: _GraphIndex, node: NodeProto, activations: Mapping[str, float]) -> str:
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


def _reduces_pixels(graph: _GraphIndex, node: NodeProto) -> bool:
    if node.op_type in SUMS_OVER_PIXELS:
        return True
    if node.op_type not in SUMS:
        return False
    axes = next((list(item.ints) for item in node.attribute if item.name == "axes"), None)
    if axes is None and len(node.input) > 1 and node.input[1] in graph.weights:
        axes = numpy_helper.to_array(graph.weights[node.input[1]]).tolist()
    return not axes or any(axis in (2, 3, -1, -2) for axis in axes)


def _add_around_reductions(graph: _GraphIndex, kept: dict[str, str]) -> None:
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


def _add_feeding(graph: _GraphIndex, node: NodeProto, kept: dict[str, str]) -> None:
    maker = graph.maker.get(node.input[0])
    while maker is not None and maker.op_type in _SQUARES and maker.name not in kept:
        square = maker.op_type in ("Pow", "Abs") or maker.op_type == "Sub" or maker.input[0] == maker.input[1]
        if not square:
            return
        kept[maker.name] = "feeds a mean over all pixels"
        if maker.op_type == "Sub":
            return
        maker = graph.maker.get(maker.input[0])


def _add_behind_exponentials(graph: _GraphIndex, kept: dict[str, str]) -> None:
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


def _add_bridges(graph: _GraphIndex, kept: dict[str, str]) -> None:
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


def _made_by(graph: _GraphIndex, name: str) -> str:
    return graph.maker[name].name if name in graph.maker else ""


# The rewriting.


def _rewrite(graph: _GraphIndex, kept: Mapping[str, str]) -> ModelProto:
    writer = _Writer(graph, kept)
    for node in graph.nodes:
        writer.add(node)
    return writer.finish()


class _Writer:
    """Writes the nodes in their order, each in its precision, with one Cast wherever a value changes sides."""

    def __init__(self, graph: _GraphIndex, kept: Mapping[str, str]) -> None:
        self.graph, self.kept = graph, kept
        self.nodes: list[NodeProto] = []
        self.weights: dict[str, TensorProto] = {}
        self.casts: dict[tuple[str, int], str] = {}
        self.outputs = {value.name for value in graph.model.graph.output}
        sources = graph.model.graph.input
        self.stored = {value.name: TensorProto.FLOAT16 for value in sources if graph.is_float(value.name)}

    def add(self, node: NodeProto) -> None:
        graph = self.graph
        halved = node.name not in self.kept and any(name in graph.pixels for name in node.output)
        wanted = TensorProto.FLOAT16 if halved and graph.takes_fp16(node) else TensorProto.FLOAT
        copy = NodeProto()
        copy.CopyFrom(node)
        for position, name in enumerate(node.input):
            if name and graph.is_float(name):
                fixed = graph.is_fixed(node, position) or node.op_type in _ANY_TYPE
                copy.input[position] = self._read(name, self._own_type(name) if fixed else wanted)
            elif name in graph.weights:
                self.weights[name] = graph.weights[name]
        if node.op_type == "Cast" and wanted == TensorProto.FLOAT16:
            _retarget(copy)
        for position, name in enumerate(node.output):
            if name and graph.is_float(name):
                self.stored[name] = wanted
                if name in self.outputs and wanted == TensorProto.FLOAT:
                    copy.output[position] = self._own_name(name, wanted)
        self.nodes.append(copy)
        self._finish_outputs(node)

    def _finish_outputs(self, node: NodeProto) -> None:
        for name in node.output:
            if name in self.outputs and self.stored.get(name) == TensorProto.FLOAT:
                self.nodes.append(_cast(self._own_name(name, TensorProto.FLOAT), name, TensorProto.FLOAT16))

    def _own_type(self, name: str) -> int:
        return TensorProto.FLOAT if name in self.graph.weights else self.stored[name]

    def _own_name(self, name: str, kind: int) -> str:
        """Where a value lies in the precision it was computed in; a graph output computed in fp32 has its Cast behind it."""
        return f"{name}/fp32" if name in self.outputs and kind == TensorProto.FLOAT else name

    def _read(self, name: str, wanted: int) -> str:
        if name in self.graph.weights:
            return self._read_weight(name, wanted)
        if self.stored[name] == wanted:
            return self._own_name(name, wanted)
        if (name, wanted) not in self.casts:
            target = f"{name}/{'fp16' if wanted == TensorProto.FLOAT16 else 'fp32'}"
            self.casts[name, wanted] = target
            self.nodes.append(_cast(self._own_name(name, self.stored[name]), target, wanted))
        return self.casts[name, wanted]

    def _read_weight(self, name: str, wanted: int) -> str:
        tensor = self.graph.weights[name]
        if wanted == TensorProto.FLOAT:
            target = f"{name}/fp32"
            self.weights[target] = _renamed(tensor, target)
            return target
        if name not in self.weights:
            halved = numpy_helper.to_array(tensor).clip(-LARGEST_FP16, LARGEST_FP16).astype(np.float16)
            self.weights[name] = numpy_helper.from_array(halved, name)
        return name

    def finish(self) -> ModelProto:
        model = self.graph.model
        graph = model.graph
        del graph.node[:], graph.initializer[:], graph.value_info[:]
        graph.node.extend(_without_idle_casts(self.nodes, self.outputs))
        graph.initializer.extend(self.weights.values())
        for value in (*graph.input, *graph.output):
            if value.type.tensor_type.elem_type == TensorProto.FLOAT:
                value.type.tensor_type.elem_type = TensorProto.FLOAT16
        return model


def _cast(source: str, target: str, kind: int) -> NodeProto:
    return helper.make_node("Cast", [source], [target], name=f"{target}/Cast", to=kind)


def _retarget(node: NodeProto) -> None:
    for item in node.attribute:
        if item.name == "to" and item.i == TensorProto.FLOAT:
            item.i = TensorProto.FLOAT16


def _renamed(tensor: TensorProto, name: str) -> TensorProto:
    copy = TensorProto()
    copy.CopyFrom(tensor)
    copy.name = name
    return copy


def _without_idle_casts(nodes: Iterable[NodeProto], outputs: set[str]) -> list[NodeProto]:
    """Drops casts whose result nobody reads."""
    listed = list(nodes)
    read = {name for node in listed for name in node.input} | outputs
    return [node for node in listed if node.op_type != "Cast" or node.output[0] in read]
