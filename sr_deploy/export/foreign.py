"""ONNX graphs that are not ours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper
from torch import nn

from sr_deploy.arrays import Array
from sr_deploy.engines import open_engine
from sr_deploy.engines.facts import infer_shapes
from sr_deploy.errors import EngineError, ExportError
from sr_deploy.export.hypothesis import Candidate, choose
from sr_deploy.export.subject import PROBE, Request, Subject, channels_of, first_line, scale_of


def from_onnx(path: Path, request: Request) -> Subject:
    """The subject of an image-to-image ONNX graph in fp32.

    Raises: ExportError when it is not one, or takes one image size only.
    """
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model, full_check=True)
    except Exception as exc:
        raise ExportError(f"{path}: not a valid ONNX graph ({first_line(exc)}); export it again") from exc
    model = _with_our_ports(model, where=path.name)
    channels = model.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    try:
        scale = scale_of(infer_shapes(model, PROBE, PROBE)["output"], channels, where=path.name)
    except EngineError as exc:
        raise ExportError(f"{path.name}: {exc}") from exc
    ranges = (1.0, 255.0)
    graphs = [_ranged_graph(model, value_range) for value_range in ranges]
    candidates = [
        _graph_candidate(graph, scale, channels, value_range) for graph, value_range in zip(graphs, ranges, strict=True)
    ]
    choice = choose(
        candidates,
        requested=request.settings,
        decided_by=request.decided_by,
        anyway=request.anyway,
        where=path.name,
    )
    graph = graphs[choice.index]
    return Subject(
        architecture="ONNX graph",
        scale=scale,
        channels=channels,
        value_range=ranges[choice.index],
        detection=choice.detection,
        original=_GraphModule(graph).run,
        graph=_clamped(graph),
    )


def _with_our_ports(model: ModelProto, *, where: str) -> ModelProto:
    """A copy with `input` (N,C,H,W) and `output`, both fp32, height and width dynamic."""
    result = ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    weights = {tensor.name for tensor in graph.initializer}
    sources = [value for value in graph.input if value.name not in weights]
    if len(sources) != 1 or len(graph.output) != 1:
        raise ExportError(f"{where}: has {len(sources)} inputs and {len(graph.output)} outputs, expected one of each")
    for value in (sources[0], graph.output[0]):
        kind = value.type.tensor_type
        if kind.elem_type != TensorProto.FLOAT or len(kind.shape.dim) != 4:
            raise ExportError(f"{where}: '{value.name}' is not a float32 (N, C, H, W) tensor; start from the fp32 export")
    dims = sources[0].type.tensor_type.shape.dim
    if dims[2].HasField("dim_value") or dims[3].HasField("dim_value"):
        raise ExportError(
            f"{where}: takes {dims[3].dim_value}x{dims[2].dim_value} pixels only; export it again with dynamic height and width"
        )
    channels_of(dims[1].dim_value, dims[1].dim_value, where=where)
    dims[2].dim_param, dims[3].dim_param = "height", "width"
    if not dims[0].HasField("dim_value"):
        dims[0].dim_param = "batch"
    names = {sources[0].name: "input", graph.output[0].name: "output"}
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    sources[0].name, graph.output[0].name = "input", "output"
    for index, node in enumerate(graph.node):
        node.name = node.name or f"{node.op_type}.{index}"
    return result


def _ranged_graph(model: ModelProto, value_range: float) -> ModelProto:
    """The graph on [0, 1]."""
    if value_range == 1:
        return model
    result = ModelProto()
    result.CopyFrom(model)
    nodes = list(result.graph.node)
    for node in nodes:
        node.input[:] = ["input.ranged" if name == "input" else name for name in node.input]
        node.output[:] = ["output.ranged" if name == "output" else name for name in node.output]
    del result.graph.node[:]
    before = helper.make_node("Mul", ["input", "value_range"], ["input.ranged"], name="value_range/Mul")
    after = helper.make_node("Div", ["output.ranged", "value_range"], ["output"], name="value_range/Div")
    result.graph.node.extend([before, *nodes, after])
    result.graph.initializer.append(numpy_helper.from_array(np.array(value_range, np.float32), "value_range"))
    return result


def _clamped(model: ModelProto) -> ModelProto:
    """The graph with a Clip to [0, 1] at its end, unless it ends in one."""
    result = ModelProto()
    result.CopyFrom(model)
    last = next(node for node in result.graph.node if "output" in node.output)
    if last.op_type != "Clip":
        for node in result.graph.node:
            node.input[:] = ["output.unclamped" if name == "output" else name for name in node.input]
            node.output[:] = ["output.unclamped" if name == "output" else name for name in node.output]
        limits = [numpy_helper.from_array(np.array(value, np.float32), f"clamp.{value}") for value in (0, 1)]
        result.graph.initializer.extend(limits)
        clip = helper.make_node("Clip", ["output.unclamped", "clamp.0", "clamp.1"], ["output"], name="clamp/Clip")
        result.graph.node.append(clip)
    del result.graph.value_info[:]
    return result


class _GraphModule(nn.Module):
    """A graph run by ONNX Runtime, as a module for measuring."""

    def __init__(self, graph: ModelProto) -> None:
        super().__init__()
        self.engine = open_engine(graph, backend="onnxruntime")

    def run(self, probe: Array) -> Array:
        return self.engine.run({"input": probe})["output"]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(self.run(x.numpy()))


def _graph_candidate(graph: ModelProto, scale: int, channels: int, value_range: float) -> Candidate:
    facts = {"value_range": value_range}
    return Candidate(scale, channels, facts, facts, lambda: _GraphModule(graph))
