"""ONNX files -> graphs, within bounds: whatever a file claims, reading it and looking at it takes little time and memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from sr_deploy.errors import BundleError, first_line

MAX_NODES = 50_000
"""The largest published networks for images have some 20,000."""

LARGEST_BYTES = 1 << 30
"""Of one tensor in fp32 for an image of 192x192, and of all that is filled without an image."""

_LOOPS = {"Loop", "Scan"}
_FILLS = {
    "ConstantOfShape", "EyeLike", "Expand", "OneHot", "RandomNormal", "RandomNormalLike", "RandomUniform",
    "RandomUniformLike", "Range", "Tile",
}  # fmt: skip
_GROWS = _FILLS | {"Pad", "Resize", "Upsample", "Unsqueeze", "ConvTranspose"}


def read_graph(path: Path) -> ModelProto:
    """The graph in an ONNX file, with all of its weights.

    Raises: BundleError for what is no ONNX file, keeps weights elsewhere, loops, has more nodes than any network for images, or
    has one that reads what no node before it makes.
    """
    try:
        model = onnx.load(path, load_external_data=False)
    except FileNotFoundError as exc:
        raise BundleError(f"{path}: no such file") from exc
    except Exception as exc:
        reason = first_line(exc)
        raise BundleError(f"{path}: not readable as ONNX ({reason}); expected a graph, for example one from a bundle") from exc
    if any(tensor.data_location == TensorProto.EXTERNAL for tensor in _tensors(model)):
        raise BundleError(f"{path}: keeps its weights in other files; save it as a single file first")
    nodes = list(_nodes(model))
    if len(nodes) > MAX_NODES:
        raise BundleError(f"{path}: has {len(nodes)} nodes, expected at most {MAX_NODES}; simplify the graph first")
    if loops := sorted(_LOOPS & {node.op_type for node in nodes}):
        raise BundleError(f"{path}: has nodes of {', '.join(loops)}, expected a graph without control flow; export it again")
    _check_order(model.graph, path)
    return model


def _check_order(graph: GraphProto, path: Path) -> None:
    """Runtimes do not all look: OpenVINO takes memory without end for a node that reads its own result."""
    made = {"", *(value.name for value in graph.input), *(tensor.name for tensor in graph.initializer)}
    made.update(sparse.values.name for sparse in graph.sparse_initializer)
    for node in graph.node:
        for name in node.input:
            if name not in made:
                raise BundleError(f"{path}: '{node.name}' reads {name!r}, which no node before it makes; get the file again")
        made.update(node.output)
    for value in graph.output:
        if value.name not in made:
            raise BundleError(f"{path}: no node makes its output {value.name!r}; get the file again")


def check_sizes(model: ModelProto, shapes: dict[str, tuple[int, ...]], *, where: str) -> None:
    """Refuse a graph that would take memory out of proportion; `shapes` are those of its tensors for one image.

    Raises: BundleError.
    """
    filled = 0
    for node in model.graph.node:
        for name in node.output:
            if node.op_type in _FILLS and name and name not in shapes:
                raise BundleError(
                    f"{where}: how large '{name}' ({node.op_type}) is does not follow from the image's size; simplify the "
                    "graph before using it here"
                )
            size = 4 * math.prod(shapes.get(name, (0,)))
            filled += size if node.op_type in _FILLS else 0
            if max(size, filled) > LARGEST_BYTES:
                raise BundleError(
                    f"{where}: '{name}' ({node.op_type}) takes {max(size, filled) >> 20} MiB for a small image; no network for "
                    "images does that"
                )
    for tensor in model.graph.initializer:
        if 4 * math.prod(tensor.dims) > LARGEST_BYTES or any(size < 0 for size in tensor.dims):
            raise BundleError(f"{where}: '{tensor.name}' claims {list(tensor.dims)} weights; get the file again")


def _nodes(model: ModelProto) -> Iterator[NodeProto]:
    """All nodes, those in branches and functions too."""
    waiting = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    while waiting:
        node = waiting.pop()
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                waiting.extend(graph.node)


def _tensors(model: ModelProto) -> Iterator[TensorProto]:
    """All constants, wherever they stand."""
    yield from _stored(model.graph)
    for node in _nodes(model):
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors, attribute.sparse_tensor.values)
            for graph in (attribute.g, *attribute.graphs):
                yield from _stored(graph)


def _stored(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
