"""Networks that are not ours: ONNX graphs, torch.export programs, and whatever spandrel knows."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper
from torch import nn

from sr_deploy.architectures import read_checkpoint
from sr_deploy.arrays import Array
from sr_deploy.engines import open_engine
from sr_deploy.engines.facts import infer_shapes
from sr_deploy.errors import EngineError, ExportError, MissingDependencyError, UnknownArchitectureError, first_line
from sr_deploy.export.hypothesis import Candidate, Choice, choose
from sr_deploy.export.subject import Request, Subject, as_function

SPANDREL_INSTALL = "pip install --no-deps spandrel einops"
"""Without torchvision: spandrel wants it for two networks that do no SR, and its wheels insist on their own torch."""

_PROBE = 64


def from_spandrel(path: Path, request: Request, *, unknown: UnknownArchitectureError) -> Subject:
    """The subject of weights that spandrel knows; they are read by our own reader, never by spandrel's.

    Raises: UnknownArchitectureError, `unknown` with a hint, when spandrel is absent or does not know them either.
    """
    try:
        spandrel = import_spandrel()
    except MissingDependencyError as exc:
        raise UnknownArchitectureError(f"{unknown}. spandrel knows some forty more: `{SPANDREL_INSTALL}`") from exc
    try:
        found = spandrel.ModelLoader().load_from_state_dict(read_checkpoint(path).state)
    except spandrel.UnsupportedModelError as exc:
        raise UnknownArchitectureError(f"{unknown}. spandrel {spandrel.__version__} does not know it either") from exc
    channels = _channels(found.input_channels, found.output_channels, where=path.name)
    network = found.model.eval().float()
    needs = found.size_requirements
    if needs.square:
        raise ExportError(f"{path.name}: {found.architecture.name} takes square images only; tiles and pictures are not square")
    candidate = Candidate(found.scale, channels, {"value_range": 1.0}, {}, lambda: network)
    choice = _chosen([candidate], request, path.name, size_multiple=needs.multiple_of)
    return Subject(
        architecture=found.architecture.id,
        scale=found.scale,
        channels=channels,
        value_range=1.0,
        detection=choice.detection,
        original=as_function(network),
        module=network,
        smallest=max(1, needs.minimum),
        size_multiple=needs.multiple_of,
    )


def import_spandrel() -> Any:
    """The spandrel module.

    Raises: MissingDependencyError with the line that installs it.
    """
    try:
        with _torchvision_or_placeholder():
            return importlib.import_module("spandrel")
    except ImportError as exc:
        raise MissingDependencyError(f"spandrel cannot be imported ({exc}); install it with `{SPANDREL_INSTALL}`") from exc


@contextlib.contextmanager
def _torchvision_or_placeholder() -> Iterator[None]:
    """Without torchvision, stands in for the three names of it that spandrel imports, for LaMa and RestoreFormer only."""
    if importlib.util.find_spec("torchvision") is not None:
        yield
        return
    parts = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional")
    placeholders = {part: types.ModuleType(part) for part in parts}
    for name in ("InterpolationMode", "rotate", "normalize"):
        setattr(placeholders[parts[-1]], name, None)
    sys.modules.update(placeholders)
    try:
        yield
    finally:
        for part in parts:
            sys.modules.pop(part, None)


def from_program(path: Path, request: Request) -> Subject:
    """The subject of a program saved by torch.export.save. Load only files that you trust.

    Raises: ExportError when it is not an image network with dynamic height and width.
    """
    try:
        program = torch.export.load(path)
    except Exception as exc:
        raise ExportError(f"{path}: not a torch.export program ({first_line(exc)}); save one with torch.export.save") from exc
    module = program.module()
    channels = _program_channels(program, path)
    probe = torch.zeros(1, channels, _PROBE, _PROBE)
    try:
        with torch.inference_mode():
            shape = tuple(module(probe).shape)
    except Exception as exc:
        raise ExportError(
            f"{path}: does not take {_PROBE}x{_PROBE} pixels ({first_line(exc)}); "
            "export it again with dynamic batch, height and width"
        ) from exc
    scale = _scale(shape, channels, where=path.name)
    ranges = (1.0, 255.0)
    candidates = [_range_candidate(module, scale, channels, value_range) for value_range in ranges]
    choice = _chosen(candidates, request, path.name)
    original = candidates[choice.index].reference()
    return Subject(
        architecture="torch.export program",
        scale=scale,
        channels=channels,
        value_range=ranges[choice.index],
        detection=choice.detection,
        original=as_function(original),
        module=original,
    )


def _program_channels(program: Any, path: Path) -> int:
    args, kwargs = program.example_inputs or ((), {})
    shapes = [tuple(value.shape) for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)]
    if len(shapes) != 1 or len(shapes[0]) != 4:
        raise ExportError(f"{path}: its inputs are {shapes}, expected one image tensor (N, C, H, W)")
    return _channels(shapes[0][1], shapes[0][1], where=path.name)


def _range_candidate(module: nn.Module, scale: int, channels: int, value_range: float) -> Candidate:
    facts = {"value_range": value_range}
    return Candidate(scale, channels, facts, facts, lambda: _Ranged(module, value_range))


class _Ranged(nn.Module):
    """`reference` for a module whose training flag cannot be set, as that of an exported program."""

    def __init__(self, network: nn.Module, value_range: float) -> None:
        super().__init__()
        self.network, self.value_range = network, value_range
        self.training = False

    def train(self, mode: bool = True) -> _Ranged:  # noqa: ARG002
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.network(x * self.value_range) / self.value_range
        return output


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
        scale = _scale(infer_shapes(model, _PROBE, _PROBE)["output"], channels, where=path.name)
    except EngineError as exc:
        raise ExportError(f"{path.name}: {exc}") from exc
    ranges = (1.0, 255.0)
    graphs = [_ranged_graph(model, value_range) for value_range in ranges]
    candidates = [
        _graph_candidate(graph, scale, channels, value_range) for graph, value_range in zip(graphs, ranges, strict=True)
    ]
    choice = _chosen(candidates, request, path.name)
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
    _channels(dims[1].dim_value, dims[1].dim_value, where=where)
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


def _chosen(candidates: list[Candidate], request: Request, where: str, *, size_multiple: int = 1) -> Choice:
    return choose(
        candidates,
        requested=request.settings,
        decided_by="flag" if request.by_flag else "recipe",
        size_multiple=size_multiple,
        anyway=request.anyway,
        where=where,
    )


def _channels(inputs: int, outputs: int, *, where: str) -> int:
    if inputs != outputs or inputs not in (1, 3):
        raise ExportError(f"{where}: takes {inputs} channels and gives {outputs}, expected RGB (3) or Y (1) on both sides")
    return inputs


def _scale(shape: tuple[int, ...], channels: int, *, where: str) -> int:
    if len(shape) != 4 or shape[1] != channels or shape[2] != shape[3] or shape[2] % _PROBE or not shape[2]:
        raise ExportError(f"{where}: makes {shape} of (1, {channels}, {_PROBE}, {_PROBE}), expected a whole-numbered scale")
    return shape[2] // _PROBE
