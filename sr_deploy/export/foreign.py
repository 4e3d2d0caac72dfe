"""ONNX graphs that are not ours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import ModelProto, TensorProto, compose, helper, numpy_helper
from torch import nn

from sr_deploy.arrays import Array
from sr_deploy.engines import open_engine
from sr_deploy.engines.foreign import VALUE_RANGES, Portable, ranged, same_pixels, to_portable
from sr_deploy.errors import BundleError, ExportError, first_line
from sr_deploy.export.hypothesis import Candidate
from sr_deploy.export.subject import Request, Subject, choose_foreign
from sr_deploy.probe_picture import as_input, degrade, probe_picture


def from_onnx(path: Path, request: Request) -> Subject:
    """The subject of an image-to-image ONNX graph in fp32, whatever the layout of its ports.

    Raises: ExportError when it is not one, or takes one image size only.
    """
    try:
        portable = to_portable(path)
    except BundleError as exc:
        raise ExportError(str(exc)) from exc
    if set(portable.types) != {TensorProto.FLOAT}:
        kinds = " and ".join(TensorProto.DataType.Name(kind).lower() for kind in portable.types)
        raise ExportError(f"{path.name}: takes and gives {kinds}, expected float32 on both sides; start from the fp32 export")
    model = _named(portable.model)
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as exc:
        raise ExportError(f"{path}: not a valid ONNX graph ({first_line(exc)}); export it again") from exc
    graphs = {value_range: ranged(model, value_range) for value_range in VALUE_RANGES}
    if "value_range" not in request.settings and _knows_no_range(graphs, portable):
        del graphs[255.0]
    candidates = [_candidate(graph, portable, value_range) for value_range, graph in graphs.items()]
    choice = choose_foreign(candidates, request, path.name, size_multiple=portable.size_multiple)
    value_range, graph = list(graphs.items())[choice.index]
    return Subject(
        architecture="ONNX graph",
        scale=portable.scale,
        channels=portable.channels,
        value_range=value_range,
        detection=choice.detection,
        original=_GraphModule(graph).run,
        graph=_clamped(graph),
        smallest=portable.min_size,
        size_multiple=portable.size_multiple,
    )


def _named(model: ModelProto) -> ModelProto:
    """A copy with the ports `input` and `output`, in which every node has a name."""
    result = compose.add_prefix(model, "theirs/") if model.graph.input[0].name != "input" else ModelProto()
    if not result.graph.node:
        result.CopyFrom(model)
    graph = result.graph
    names = {graph.input[0].name: "input", graph.output[0].name: "output"}
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    graph.input[0].name, graph.output[0].name = "input", "output"
    for index, node in enumerate(graph.node):
        node.name = node.name or f"{node.op_type}.{index}"
    return result


def _knows_no_range(graphs: dict[float, ModelProto], portable: Portable) -> bool:
    """Whether the graph makes the same picture in every value range, as one without biases does."""
    _, lr = degrade(probe_picture(), portable.scale, size_multiple=portable.size_multiple)
    return same_pixels(*(_GraphModule(graph).run(as_input(lr, portable.channels)) for graph in graphs.values()))


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


def _candidate(graph: ModelProto, portable: Portable, value_range: float) -> Candidate:
    facts = {"value_range": value_range}
    return Candidate(portable.scale, portable.channels, facts, facts, lambda: _GraphModule(graph))
