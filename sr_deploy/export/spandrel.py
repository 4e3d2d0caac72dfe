"""Networks that spandrel knows: our own reader reads the weights, spandrel builds the network, another process traces it.

spandrel's modules are made for running, and some of them take the tracing process down with them.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import math
import sys
import tempfile
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import ModelProto
from torch import Tensor, nn

from sr_deploy.apart import main, run_apart
from sr_deploy.architectures import read_checkpoint
from sr_deploy.errors import ExportError, MissingDependencyError, UnknownArchitectureError, first_line
from sr_deploy.export.certify import as_function
from sr_deploy.export.hypothesis import Candidate
from sr_deploy.export.subject import Request, Subject, channels_of, choose_foreign
from sr_deploy.export.trace import trace

SPANDREL_INSTALL = "pip install --no-deps spandrel einops"
"""Without torchvision: spandrel wants it for two networks that do no SR, and its wheels insist on their own torch."""

_LEAST_PROBE = 64
_SECONDS = 3600
"""Of computing, for a trace."""


@dataclass(frozen=True)
class SpandrelNetwork:
    """A network that spandrel built, in eval mode, between [0, 1] and about [0, 1]."""

    name: str
    scale: int
    channels: int
    network: nn.Module
    smallest: int
    size_multiple: int


def find(path: Path, *, unknown: UnknownArchitectureError) -> SpandrelNetwork:
    """The network of a checkpoint, if spandrel knows it.

    Raises: UnknownArchitectureError, `unknown` with a hint, when spandrel is absent or does not know it either; ExportError for
    one that does not make pictures out of pictures of any size.
    """
    try:
        spandrel = import_spandrel()
    except MissingDependencyError as exc:
        raise UnknownArchitectureError(f"{unknown}. spandrel knows some forty more: `{SPANDREL_INSTALL}`") from exc
    state = read_checkpoint(path).state
    try:
        found = _loaded(spandrel, state) or _loaded(spandrel, {f"model.{name}": tensor for name, tensor in state.items()})
    except Exception as exc:  # what is nearly a network of its makes spandrel raise anything
        raise UnknownArchitectureError(f"{unknown}. spandrel {spandrel.__version__} refuses it: {first_line(exc)}") from exc
    if found is None:
        raise UnknownArchitectureError(f"{unknown}. spandrel {spandrel.__version__} does not know it either")
    if not isinstance(found, spandrel.ImageModelDescriptor):
        raise ExportError(f"{path.name}: {found.architecture.name} needs more than a picture; expected an upscaler")
    needs = found.size_requirements
    if needs.square:
        raise ExportError(f"{path.name}: {found.architecture.name} takes square images only; tiles and pictures are not square")
    return SpandrelNetwork(
        name=found.architecture.id,
        scale=found.scale,
        channels=channels_of(found.input_channels, found.output_channels, where=path.name),
        network=found.model.eval().float(),
        smallest=max(1, needs.minimum),
        size_multiple=math.lcm(needs.multiple_of, *_windows(found.model)),
    )


def _loaded(spandrel: Any, state: dict[str, Tensor]) -> Any:
    """What spandrel makes of weights; None where it knows no network with such names. ESRGAN's own begin with `model.`."""
    try:
        return spandrel.ModelLoader().load_from_state_dict(state)
    except spandrel.UnsupportedModelError:
        return None


def _windows(network: nn.Module) -> Iterator[int]:
    """Sides of the windows that attention takes: such networks fill them up themselves, which no trace can keep."""
    for module in network.modules():
        for name in ("window_size", "split_size"):
            sides = getattr(module, name, ())
            yield from sides if isinstance(sides, list | tuple) else (sides,)


def from_spandrel(path: Path, request: Request, *, unknown: UnknownArchitectureError) -> Subject:
    """The subject of weights that spandrel knows, traced apart.

    Raises: as `find`; ExportError when the network cannot be traced.
    """
    found = find(path, unknown=unknown)
    graph = _trace_apart(path, found)
    candidate = Candidate(found.scale, found.channels, {"value_range": 1.0}, {}, lambda: found.network)
    choice = choose_foreign([candidate], request, path.name, size_multiple=found.size_multiple)
    return Subject(
        architecture=found.name,
        scale=found.scale,
        channels=found.channels,
        value_range=1.0,
        detection=choice.detection,
        original=as_function(found.network),
        graph=graph,
        smallest=found.smallest,
        size_multiple=found.size_multiple,
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


def _trace_apart(path: Path, found: SpandrelNetwork) -> ModelProto:
    """The network's graph, traced by a process of its own.

    Raises: ExportError with what that process said, or how it died.
    """
    with tempfile.TemporaryDirectory(prefix="sr-deploy-") as folder:
        graph = Path(folder, "network.onnx")
        reason = run_apart("sr_deploy.export.spandrel", path, graph, seconds=_SECONDS)
        if not reason:
            return onnx.load(graph)
    raise ExportError(
        f"{path.name}: spandrel's {found.name} cannot be traced: {reason}. For this network, export it to ONNX in its own "
        "project and use the .onnx file"
    )


def _trace_here(checkpoint: Path, graph: Path) -> None:
    found = find(checkpoint, unknown=UnknownArchitectureError(f"{checkpoint}: none of our networks"))
    side = -(-max(_LEAST_PROBE, found.smallest) // found.size_multiple) * found.size_multiple
    _make_windows_traceable(found.network)
    with torch.inference_mode():
        found.network(torch.rand(1, found.channels, side, side))
    traced = trace(found.network, channels=found.channels, size_multiple=found.size_multiple)
    graph.write_bytes(traced.SerializeToString(deterministic=True))


def _make_windows_traceable(network: nn.Module) -> None:
    """Functions of theirs that no trace keeps give way to equal ones.

    Theirs find the number of images by a division of floats, which becomes a constant, and write masks part by part.
    """
    ours = {"window_reverse": lambda windows, side, *size: image_of_windows(windows, side, side, *size)}
    ours["windows2img"] = image_of_windows
    for kind in {type(module) for module in network.modules()}:
        code = sys.modules[kind.__module__]
        for name in ours.keys() & vars(code).keys():
            setattr(code, name, ours[name])
    for module in network.modules():
        if hasattr(module, "calculate_mask") and isinstance(getattr(module, "shift_size", None), int):
            vars(module)["calculate_mask"] = functools.partial(mask_of_windows, module)


def image_of_windows(windows: Tensor, side_y: int, side_x: int, height: int, width: int) -> Tensor:
    """(windows, side_y, side_x, C), or with both sides in one, -> (N, height, width, C)."""
    channels = windows.shape[-1]
    rows = windows.reshape(-1, height // side_y, width // side_x, side_y, side_x, channels).transpose(2, 3)
    return rows.reshape(-1, height, width, channels)


def mask_of_windows(module: Any, size: tuple[int, int], dtype: torch.dtype = torch.float32) -> Tensor:
    """For each window of a shifted image -100 where two of its pixels met by the shift alone, and else 0."""
    side, shift = int(module.window_size), int(module.shift_size)

    def zones(length: int) -> Tensor:
        place = torch.arange(length)
        return (place >= length - side).long() + (place >= length - shift).long()

    height, width = size
    zone = 3 * zones(height)[:, None] + zones(width)
    windows = zone.reshape(height // side, side, width // side, side).transpose(1, 2).reshape(-1, side * side)
    mask: Tensor = (windows[:, None] != windows[:, :, None]).to(dtype) * -100.0
    return mask


if __name__ == "__main__":
    main(_trace_here)
