"""Graph -> TensorRT engine, for the run: found where engines lie, else built once for the GPU of this machine."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from onnx import ModelProto

from sr_deploy.card import GRAPH_METADATA_KEY, ModelCard
from sr_deploy.device.device import Device, load_warp
from sr_deploy.device.gpu import GPU, find_gpus
from sr_deploy.engines.tensorrt import library as libraries
from sr_deploy.engines.tensorrt.build import BuiltEngine, Say, build_graph, fitting_engines, graph_bytes
from sr_deploy.engines.tensorrt.cache import default_folder, kernels_path
from sr_deploy.engines.tensorrt.engine import TensorRTEngine
from sr_deploy.engines.tensorrt.support import targets_for, why_not_run
from sr_deploy.engines.tensorrt.target import BuildSettings
from sr_deploy.errors import BackendUnavailableError, EngineError, OutOfMemoryError, UsageError

if TYPE_CHECKING:
    from sr_deploy.card import Arithmetic, Precision

FOLDER = Path("engines")
"""Where `sr-deploy build` puts engines."""

LEAST_SIDE, FOREIGN_LEAST_SIDE = 16, 64
"""Engines that a run builds take small images too, where the network is known to."""

_log = logging.getLogger(__name__)


class Opener:
    """One flavour as a backend."""

    def __init__(self, flavour: libraries.Flavour) -> None:
        self._flavour = flavour

    def require(self) -> None:
        """Raises: BackendUnavailableError with what is missing on this machine."""
        if problem := why_not_run(self._flavour):
            raise BackendUnavailableError(problem)

    def usable_precisions(self, device: str) -> tuple[Arithmetic, ...]:
        """fp16, which TensorRT is for, and fp32; bf16 is not offered.

        Raises: BackendUnavailableError when NVIDIA Warp is missing.
        """
        del device
        load_warp()
        return ("fp16", "fp32")

    def open(
        self,
        graph: bytes,
        *,
        device: str,
        precision: Arithmetic,
        threads: int | None,
        gpu: int = 0,
        folder: Path | None = None,
        say: Say | None = None,
    ) -> TensorRTEngine:
        """An engine of `graph`, from `folder`, ./engines or the user's own folder, else built into `folder` or the user's own.

        `say` is told what is built and why, since that takes time; by default it is logged as a warning.

        Raises: UsageError, BackendUnavailableError, OutOfMemoryError, EngineError.
        """
        del threads
        if precision == "bf16":
            raise EngineError(f"{self._flavour.name} computes in fp32 or fp16, not in bf16; use --precision fp16 or fp32")
        found = _gpu(gpu)
        library = libraries.load_library(self._flavour)
        model, own = ModelProto.FromString(graph), default_folder()
        return open_graph(
            model,
            library,
            Device(f"{device}:{gpu}"),
            found,
            precision=precision,
            search=[*([folder] if folder else []), FOLDER, own],
            folder=folder or own,
            say=say or _log.warning,
        )


TENSORRT = Opener(libraries.TENSORRT)
TENSORRT_RTX = Opener(libraries.TENSORRT_RTX)


def open_graph(
    graph: ModelProto,
    library: libraries.Library,
    device: Device,
    gpu: GPU,
    *,
    precision: Precision,
    search: Sequence[Path],
    folder: Path,
    say: Say,
) -> TensorRTEngine:
    """The newest engine of `graph` in the first folder of `search` that has one, else a new one, kept in `folder`.

    Raises: BackendUnavailableError, OutOfMemoryError, EngineError.
    """

    def load(built: BuiltEngine) -> TensorRTEngine:
        kernels = kernels_path(built.path, str(gpu))
        description = f"{library.flavour.name} {precision}"
        return TensorRTEngine(built.path.read_bytes(), library, device, kernels=kernels, description=description)

    for built in fitting_engines(graph_bytes(graph), library, gpu, search):
        try:
            return load(built)
        except OutOfMemoryError:
            raise
        except (EngineError, OSError) as exc:
            say(f"{built.path} cannot be used: {exc}")
    card = _card(graph)
    notice = f"building an engine of {card.name} for {gpu} with {library}, once; this may take minutes"
    with device.current():
        settings = run_settings(card, library, gpu)
        built = build_graph(graph, card, library, settings, folder=folder, precision=precision, gpu=gpu, say=say, notice=notice)
        return load(built)


def run_settings(card: ModelCard, library: libraries.Library, gpu: GPU) -> BuildSettings:
    """As the targets in engines/ have it, for this GPU alone, and from smaller images on.

    Raises: BackendUnavailableError, OutOfMemoryError.
    """
    least = -(-max(card.min_size, LEAST_SIDE) // card.size_multiple) * card.size_multiple
    return BuildSettings(min=f"{least}x{least}", compute_capabilities=targets_for(library, gpu))


def _card(graph: ModelProto) -> ModelCard:
    """The card that our graphs carry; for a foreign graph, what need not be known to run it is left open."""
    text = next((entry.value for entry in graph.metadata_props if entry.key == GRAPH_METADATA_KEY), None)
    if text is not None:
        return ModelCard.from_json(text, where=f"the card of {graph.graph.name}")
    return ModelCard(graph.graph.name or "a graph", "foreign", scale=0, channels=3, min_size=FOREIGN_LEAST_SIDE)


def _gpu(number: int) -> GPU:
    found = find_gpus()
    if not 0 <= number < len(found):
        shown = ", ".join(f"{index}: {gpu}" for index, gpu in enumerate(found))
        raise UsageError(f"there is no GPU {number}; there are {shown}")
    return found[number]
