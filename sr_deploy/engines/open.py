"""Whatever a user has, a bundle folder, one of our graphs, a foreign graph, opened as a Bundle."""

from __future__ import annotations

import os
from pathlib import Path

from onnx import ModelProto, TensorProto

from sr_deploy.bundle import Bundle, sha256_of
from sr_deploy.card import GRAPH_METADATA_KEY, GraphCard, ModelCard, Precision
from sr_deploy.errors import BundleError, EngineError, UsageError
from sr_deploy.models import DEFAULT, FOLDER, resolve

_LEAST_SIDE = 48


def open_bundle(path: str | Path) -> Bundle:
    """The bundle at a path, or in the box.

    path: a folder made by `sr-deploy export`, a lone graph out of one, or any other image graph; or the name of a network in
        the box, such as `fast` or `fast-x2`. What is on disk comes first.

    A foreign graph makes an image of C 3 (RGB) or 1 (luma) channels out of one, a whole number of times as large. Layout, types
    and sizes of its ports, its scale and its value range are measured when it is first opened, and kept in the user's cache.

    Raises: BundleError with the reason and the way out; UsageError for what is neither a path nor a name;
    BackendUnavailableError when no runtime is there to measure with.
    """
    if not isinstance(path, str | os.PathLike):
        raise UsageError(
            f"{path!r} is no bundle; expected the folder of one, an .onnx file, or a network in the box such as '{DEFAULT}'"
        )
    path = resolve(path)
    if path.suffix.lower() == ".onnx":
        return _open_graph(path)
    if path.is_file():
        raise BundleError(
            f"{path}: neither a bundle folder nor an .onnx graph; make a bundle with `sr-deploy export {path.name}`"
        )
    bundle = Bundle.open(path)
    if path.parent != FOLDER:
        _check_graphs(bundle)
    return bundle


def _check_graphs(bundle: Bundle) -> None:
    from sr_deploy.engines.graph_file import read_graph

    for key, graph in bundle.graphs.items():
        if not key.startswith("refine"):
            file = bundle.folder / graph.file
            _check_shapes(file, read_graph(file), bundle.card)


def _open_graph(path: Path) -> Bundle:
    from sr_deploy.engines.graph_file import read_graph

    model = read_graph(path)
    card = next((entry.value for entry in model.metadata_props if entry.key == GRAPH_METADATA_KEY), None)
    if card is None:
        from sr_deploy.engines.foreign_cache import open_foreign

        return open_foreign(path, nodes=len(model.graph.node))
    own = ModelCard.from_json(card, where=str(path))
    if own.masked is not None:
        raise BundleError(f"{path}: one of the two graphs of {own.name}, a mask-guided network; open the folder of its bundle")
    _check_shapes(path, model, own)
    precision: Precision = "fp16" if model.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT16 else "fp32"
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    return Bundle(path.parent, own, {precision: GraphCard(path.name, precision, sha256_of(path), opset)})


def _check_shapes(path: Path, model: ModelProto, card: ModelCard) -> None:
    """Compare scale and colors with what the graph makes.

    Raises: BundleError.
    """
    from sr_deploy.engines.facts import infer_shapes
    from sr_deploy.engines.graph_file import check_sizes

    side = -(-max(card.min_size, _LEAST_SIDE) // card.size_multiple) * card.size_multiple
    try:
        shapes = infer_shapes(model, side, side)
        check_sizes(model, shapes, where=str(path))
        found = [shapes[value.name] for value in (model.graph.input[0], model.graph.output[0])]
    except (EngineError, IndexError, KeyError) as exc:
        raise BundleError(f"{path}: not the graph of its card ({exc}); export the bundle again") from exc
    wanted = [(1, card.channels, side, side), (1, card.channels, side * card.scale, side * card.scale)]
    if found != wanted:
        raise BundleError(
            f"{path}: makes {list(found[1])} of {list(found[0])}, its card says x{card.scale} with {card.channels} colors; "
            "export the bundle again"
        )
