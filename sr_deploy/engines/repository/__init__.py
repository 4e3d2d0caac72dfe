"""Bundles -> a model repository, the folder that another inference server reads: Triton, or OpenVINO Model Server.

FOLDER/
  NAME/1/model.onnx    the network, in its float or its pixel form; model.plan where TensorRT built an engine of it
  NAME/config.pbtxt    for Triton: what goes in and out, batches, instances
  config.json          for OpenVINO Model Server: the networks, and how they are computed
  README.md            how to start the server, and what it does not do that sr-deploy does
  client.py            upscales a picture on it
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from onnx import ValueInfoProto, helper

from sr_deploy import files
from sr_deploy.bundle import Bundle
from sr_deploy.card import Precision
from sr_deploy.engines.engine import TensorSpec
from sr_deploy.engines.pixels import dim_of, load_pixel_form
from sr_deploy.engines.repository import model_server, triton
from sr_deploy.engines.repository.network import VERSION, GraphForm, RepositoryNetwork, ServerName
from sr_deploy.engines.repository.page import client_of, readme_of
from sr_deploy.engines.tensorrt.build import engine_graph, graph_bytes
from sr_deploy.engines.tensorrt.cache import EngineCache, EngineRecord
from sr_deploy.engines.tensorrt.library import TENSORRT
from sr_deploy.errors import EngineError, UsageError
from sr_deploy.models import FOLDER as BOX

MOST_IMAGES = 8


def make_repository(
    bundles: Sequence[Bundle],
    target: Path,
    server: ServerName,
    *,
    form: GraphForm = "pixels",
    precision: Precision | None = None,
    most: int = MOST_IMAGES,
    instances: int = 1,
    gpus: Sequence[int] = (),
    engines: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> tuple[RepositoryNetwork, ...]:
    """Write a model repository of the bundles to `target`, a folder that is not there yet or empty.

    precision: of the graphs; None takes that of a plan, else fp32 where a bundle has it.
    most: images that Triton runs at once; a plan has a number of its own.
    instances: of each network, on each of `gpus`.
    engines: a folder with engines, of which Triton gets those that TensorRT built of these bundles, the newest of each.
    say: told of every plan.

    Raises: UsageError for a target that is not free, no bundle, two of one name, or a mask-guided network; BundleError;
    EngineError when a graph does not take the form, or the folder cannot be written.
    """
    _check_target(target)
    folder = engines if server == "triton" else None
    networks = tuple(_served(bundle, form, precision, most, folder, say) for bundle in bundles)
    _check_names(networks)
    try:
        with files.staged_folder(target) as part:
            for network in networks:
                version = part / network.name / VERSION
                version.mkdir(parents=True)
                (version / network.file).write_bytes(network.contents)
                if server == "triton":
                    config = triton.config_of(network, instances=instances, gpus=gpus)
                    (part / network.name / triton.CONFIG_FILE).write_text(config, encoding="utf-8")
            if server == "openvino":
                config = model_server.config_of(networks, instances=instances)
                (part / model_server.CONFIG_FILE).write_text(config, encoding="utf-8")
            (part / "README.md").write_text(readme_of(networks, server, form), encoding="utf-8")
            (part / "client.py").write_text(client_of(networks, form), encoding="utf-8")
    except OSError as exc:
        raise EngineError(f"{target}: cannot be written ({exc.strerror}); choose another output") from exc
    return networks


def _served(
    bundle: Bundle, form: GraphForm, precision: Precision | None, most: int, engines: Path | None, say: Callable[[str], None]
) -> RepositoryNetwork:
    card = bundle.card
    name = bundle.folder.name if bundle.folder.parent == BOX else card.name
    if card.masked is not None:
        raise UsageError(
            f"{name}: a mask-guided network, in two graphs with a selection between them; other servers run one graph. "
            "Serve it with `sr-deploy serve`, or take another network"
        )
    found = None if engines is None else _plan(bundle, name, form, precision, engines, say)
    return found or _graph(bundle, name, form, precision or ("fp32" if bundle.runs("fp32") else "fp16"), most)


def _graph(bundle: Bundle, name: str, form: GraphForm, precision: Precision, most: int) -> RepositoryNetwork:
    """The graph as it is in the bundle, or its pixel form."""
    path = bundle.graph(precision)
    graph = load_pixel_form(bundle, precision) if form == "pixels" else onnx.load(path)
    contents = graph_bytes(graph) if form == "pixels" else path.read_bytes()
    weights = {tensor.name for tensor in graph.graph.initializer}
    inputs = _specs(value for value in graph.graph.input if value.name not in weights)
    outputs = _specs(graph.graph.output)
    most = most if all(tensor.shape[0] == -1 for tensor in (*inputs, *outputs)) else 0
    return RepositoryNetwork(name, bundle.card, precision, "model.onnx", contents, inputs, outputs, most)


def _plan(
    bundle: Bundle, name: str, form: GraphForm, precision: Precision | None, engines: Path, say: Callable[[str], None]
) -> RepositoryNetwork | None:
    """The newest whole engine of a folder that TensorRT built of the bundle; fp16 before fp32 where neither is asked for."""
    choices: tuple[Precision, ...] = (precision,) if precision else ("fp16", "fp32")
    for chosen in filter(bundle.runs, choices):
        graph = graph_bytes(engine_graph(bundle, precision=chosen, pixels=form == "pixels"))
        digest = hashlib.sha256(graph).hexdigest()
        for entry in EngineCache(engines).fitting(partial(_is_plan_of, digest)):
            if entry.record is None or entry.problem:
                continue
            record = entry.record
            say(f"{name}: {entry.path}, a plan of TensorRT {record.key.version} for {record.key.gpu}")
            inputs, outputs = (tuple(map(TensorSpec.parse, texts)) for texts in (record.inputs, record.outputs))
            (_, _, largest), *_ = record.key.shapes.values()
            most = largest[0] if inputs[0].shape[0] == -1 else 0
            return RepositoryNetwork(
                name, bundle.card, chosen, "model.plan", entry.path.read_bytes(), inputs, outputs, most, record
            )
    return None


def _is_plan_of(digest: str, record: EngineRecord) -> bool:
    """TensorRT for RTX builds engines that Triton does not load."""
    return (record.key.graph, record.key.library) == (digest, TENSORRT.name)


def _specs(values: Iterable[ValueInfoProto]) -> tuple[TensorSpec, ...]:
    return tuple(map(_spec, values))


def _spec(value: ValueInfoProto) -> TensorSpec:
    tensor = value.type.tensor_type
    sizes = map(dim_of, tensor.shape.dim)
    shape = tuple(size if isinstance(size, int) and size > 0 else -1 for size in sizes)
    return TensorSpec(value.name, np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type)), shape)


def _check_target(target: Path) -> None:
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"{target}: already there, expected a new or an empty folder; choose another output")


def _check_names(networks: Sequence[RepositoryNetwork]) -> None:
    if not networks:
        raise UsageError("no bundle; name one at least")
    name, count = Counter(network.name for network in networks).most_common(1)[0]
    if count > 1:
        raise UsageError(f"{name}: the name of {count} bundles, expected one; export one of them again with another --name")
    ports = {network.name: _ports(network) for network in networks}
    first = networks[0].name
    if other := next((name for name in ports if ports[name] != ports[first]), ""):
        raise UsageError(
            f"{first} has {ports[first]}, {other} has {ports[other]}; expected the same of all, for one client: "
            "give --precision, or make a repository of each"
        )


def _ports(network: RepositoryNetwork) -> str:
    return ", ".join(f"{tensor.name} {tensor.dtype.name}" for tensor in (*network.inputs, *network.outputs))
