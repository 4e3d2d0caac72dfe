"""fp32 graph -> fp16 graph, keeping in fp32 exactly what fp16 cannot hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from sr_deploy.errors import ExportError, first_line
from sr_deploy.export.kept import LARGEST_FP16, GraphIndex, select

_ANY_TYPE = {"Cast", "Shape", "Size"}
"""Read whatever precision a value has."""


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
    graph = GraphIndex(model)
    kept = select(graph, activations)
    result = _rewrite(graph, kept)
    try:
        onnx.checker.check_model(result, full_check=True)
    except Exception as exc:
        raise ExportError(f"ONNX's checker refuses the fp16 graph: {first_line(exc)}") from exc
    return HalfPrecision(result, kept)


def _rewrite(graph: GraphIndex, kept: Mapping[str, str]) -> ModelProto:
    writer = _Writer(graph, kept)
    for node in graph.nodes:
        writer.add(node)
    return writer.finish()


class _Writer:
    """Writes the nodes in their order, each in its precision, with one Cast wherever a value changes sides."""

    def __init__(self, graph: GraphIndex, kept: Mapping[str, str]) -> None:
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
