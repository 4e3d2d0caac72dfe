"""Torch module -> ONNX graph. The only caller of torch.onnx.export."""

from __future__ import annotations

import contextlib
import gc
import logging
import re
import warnings
from collections import Counter
from collections.abc import Iterator

import onnx
import torch
from onnx import ModelProto, NodeProto
from torch import Tensor, nn

from sr_deploy.architectures.mga import MaskGuided, crops
from sr_deploy.errors import ExportError, first_line

OPSET = 20
PRODUCER = "sr-deploy"
_EXAMPLE = (2, 64, 96)
"""Batch, height and width of the traced example: no two alike, large enough for ESA, multiples of 32 for U-shaped networks."""

_IMAGE_AXES = {0: "batch", 2: "height", 3: "width"}

_TALKATIVE = ("torch.onnx", "torch.export", "torch._dynamo", "torch.fx", "onnxscript", "onnx_ir")


def trace(module: nn.Module, *, channels: int, size_multiple: int = 1) -> ModelProto:
    """The graph of `module` with a clamp to [0, 1] at its end: `input` (N,C,H,W) fp32 -> `output`, N, H and W dynamic.

    `module` maps [0, 1] to about [0, 1]. Nodes and tensors are named after the modules they come from, and nothing else of
    the traced program (paths, stack traces) is kept: the same weights give the same bytes.

    Raises: ExportError when torch cannot trace the module or ONNX's checker refuses the graph.
    """
    return _traced(_Clamped(module), _example(channels, size_multiple), "input", ["output"], _IMAGE_AXES)


def trace_parts(network: MaskGuided, *, channels: int, size_multiple: int) -> tuple[ModelProto, ModelProto]:
    """The graphs of base and refine network as a bundle holds them, traced as by `trace`.

    `network` maps [0, 1] to about [0, 1]. Height and width of patches are fixed, their number is dynamic.

    Raises: ExportError.
    """
    example = _example(channels, size_multiple)
    base = _traced(_Base(network), example, "input", ["coarse", "features", "scores"], _IMAGE_AXES)
    with torch.no_grad():
        patches = crops(network.look(example[:1])[1], torch.arange(3))
    return base, _traced(_Clamped(network.refine), patches, "patches", ["pixels"], {0: "count"})


def _example(channels: int, size_multiple: int) -> Tensor:
    batch, height, width = _EXAMPLE
    if height % size_multiple or width % size_multiple:
        height, width = 2 * size_multiple, 3 * size_multiple
    return torch.linspace(0, 1, batch * channels * height * width).reshape(batch, channels, height, width)


def _traced(module: nn.Module, example: Tensor, source: str, targets: list[str], axes: dict[int, str]) -> ModelProto:
    with _silenced(), _uncollected(), torch.no_grad():
        try:
            program = torch.onnx.export(
                module.eval(),
                (example,),
                dynamo=True,
                opset_version=OPSET,
                external_data=False,
                input_names=[source],
                output_names=targets,
                dynamic_shapes=(axes,),
                verbose=False,
            )
        except Exception as exc:
            raise ExportError(_explained(exc)) from exc
    if program is None:
        raise ExportError("torch.onnx.export returned no program; the network cannot become a graph")
    model = clean(program.model_proto)
    _check(model)
    return model


class _Clamped(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.network(x)
        return torch.clamp(output, 0.0, 1.0)


class _Base(nn.Module):
    def __init__(self, network: MaskGuided) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        coarse, features, scores = self.network.look(x)
        return torch.clamp(coarse, 0.0, 1.0), features, scores


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """The exporter makes millions of objects and drops few: to look for garbage among them takes a sixth of its time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """torch and onnxscript log and warn about missing torchvision and their own deprecations; none of it is the user's."""
    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def clean(model: ModelProto) -> ModelProto:
    """A copy without metadata, doc strings and unused weights, its nodes and tensors named by module and operator."""
    result = ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    _rename(result)
    used = {name for node in graph.node for name in node.input}
    weights = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:], graph.value_info[:], result.metadata_props[:], graph.metadata_props[:]
    graph.initializer.extend(weights)
    result.doc_string = graph.doc_string = result.domain = ""
    result.producer_name, result.producer_version, graph.name = PRODUCER, "", "network"
    for item in (*graph.node, *graph.input, *graph.output, *graph.initializer):
        item.doc_string = ""
        del item.metadata_props[:]
    for tensor in graph.initializer:
        del tensor.external_data[:]
    return result


def _rename(model: ModelProto) -> None:
    graph = model.graph
    names = {value.name: value.name for value in (*graph.input, *graph.output)}
    constants = {tensor.name for tensor in graph.initializer if "." not in tensor.name}
    names |= {tensor.name: _scope_free(tensor.name) for tensor in graph.initializer if tensor.name not in constants}
    if len(set(names.values())) < len(names):
        names = {name: name for name in names}
    count: Counter[str] = Counter()
    for node in graph.node:
        scope = _scope(node)
        stem = f"{scope}/{node.op_type}" if scope else node.op_type
        count[stem] += 1
        node.name = stem if count[stem] == 1 else f"{stem}.{count[stem]}"
        for position, output in enumerate(node.output):
            if output:
                names.setdefault(output, node.name if position == 0 else f"{node.name}:{position}")
        for position, source in enumerate(node.input):
            if source in constants:
                names.setdefault(source, f"{node.name}.input{position}")
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for tensor in graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)


def _scope(node: NodeProto) -> str:
    """Dotted path of the module that a node was traced from, '' where torch knows none."""
    for entry in node.metadata_props:
        if entry.key == "pkg.torch.onnx.name_scopes":
            quoted = re.findall(r"'([^']*)'", entry.value)
            return _scope_free(quoted[-2]) if len(quoted) > 1 and not quoted[-2].startswith("_empty") else ""
    return ""


def _scope_free(name: str) -> str:
    """`name` without the wrappers that export puts around a network."""
    while name.startswith("network."):
        name = name.removeprefix("network.")
    return "" if name == "network" else name


def _check(model: ModelProto) -> None:
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as exc:
        raise ExportError(f"ONNX's checker refuses the traced graph: {first_line(exc)}") from exc
    unknown = sorted({node.domain for node in model.graph.node} - {"", "ai.onnx"})
    if unknown or model.functions:
        raise ExportError(f"the traced graph uses operators outside ONNX ({', '.join(unknown)}); no runtime would load it")


def _explained(error: Exception) -> str:
    text = str(error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    reason = next((line for line in lines if "Error" in line and "torch.onnx" not in line), lines[0] if lines else repr(error))
    return (
        f"torch cannot trace this network with dynamic height and width: {reason}. "
        "A network for export must take any image size and branch on no pixel values"
    )
