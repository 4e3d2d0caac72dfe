"""Whatever a user has, a bundle folder, one of our graphs, a foreign graph, opened as a Bundle."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, cast

import onnx
from onnx import ModelProto, TensorProto

from sr_deploy.bundle import GRAPH_METADATA_KEY, Bundle, GraphCard, ModelCard, Precision, Source, sha256_of
from sr_deploy.errors import BundleError, UsageError
from sr_deploy.models import DEFAULT, resolve


def open_bundle(path: str | Path) -> Bundle:
    """The bundle at a path, or in the box.

    path: a folder made by `sr-deploy export`, a lone graph out of one, or any other image graph; or the name of a network in
        the box, such as `fast` or `fast-x2`. What is on disk comes first.

    A foreign graph must map (N,C,H,W) in [0,1] to (N,C,sH,sW) in [0,1] with C 3 (RGB) or 1 (luma); its scale, channels and
    reach are read from its nodes.

    Raises: BundleError with the reason and the way out; UsageError for what is neither a path nor a name.
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
    return Bundle.open(path)


def _open_graph(path: Path) -> Bundle:
    try:
        model = onnx.load(path, load_external_data=False)
    except FileNotFoundError as exc:
        raise BundleError(f"{path}: no such file") from exc
    except Exception as exc:
        raise BundleError(f"{path}: not readable as ONNX ({exc}); expected a graph, for example one from a bundle") from exc
    if any(tensor.data_location == TensorProto.EXTERNAL for tensor in model.graph.initializer):
        raise BundleError(f"{path}: keeps its weights in other files; save it as a single file first")
    card = next((entry.value for entry in model.metadata_props if entry.key == GRAPH_METADATA_KEY), None)
    own = None if card is None else ModelCard.from_json(card, where=str(path))
    if own is not None and own.masked is not None:
        raise BundleError(f"{path}: one of the two graphs of {own.name}, a mask-guided network; open the folder of its bundle")
    precision = _precision(path, model)
    facts = own or _foreign_card(path, model)
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    graph = GraphCard(path.name, precision, sha256_of(path), opset)
    return Bundle(path.parent, facts, {precision: graph})


def _precision(path: Path, model: ModelProto) -> Precision:
    weights = {tensor.name for tensor in model.graph.initializer}
    sources = [value for value in model.graph.input if value.name not in weights]
    if len(sources) != 1 or len(model.graph.output) != 1:
        raise BundleError(
            f"{path}: has {len(sources)} inputs and {len(model.graph.output)} outputs; expected one image in and one out"
        )
    tensor = sources[0].type.tensor_type
    if len(tensor.shape.dim) != 4 or tensor.elem_type not in (TensorProto.FLOAT, TensorProto.FLOAT16):
        raise BundleError(f"{path}: its input is not (N,C,H,W) in fp32 or fp16; expected RGB in [0,1] in that layout")
    return "fp16" if tensor.elem_type == TensorProto.FLOAT16 else "fp32"


def _foreign_card(path: Path, model: ModelProto) -> ModelCard:
    from sr_deploy.engines.facts import graph_facts

    facts = graph_facts(model)
    if facts.channels not in (1, 3) or facts.scale < 1:
        raise BundleError(f"{path}: takes {facts.channels} channels at scale {facts.scale}; expected 3 (RGB) or 1 (luma)")
    return ModelCard(
        name=path.stem,
        architecture="foreign",
        scale=facts.scale,
        channels=cast("Literal[1, 3]", facts.channels),
        source=Source(path.name, sha256_of(path)),
        tiling="exact" if facts.exact else "approximate",
        halo=facts.halo,
        min_size=facts.min_size,
        activation_bytes=facts.activation_bytes,
        macs=facts.macs,
        parameters=facts.parameters,
    )
