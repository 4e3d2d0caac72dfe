"""Programs saved by torch.export. Loading one can run code that is in it, so nothing is loaded that nobody vouches for."""

from __future__ import annotations

import io
import json
import re
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import nn

from sr_deploy.architectures.checkpoint import refuse_bomb
from sr_deploy.errors import CheckpointError, ExportError, first_line
from sr_deploy.export.certify import as_function
from sr_deploy.export.hypothesis import Candidate
from sr_deploy.export.subject import PROBE, Request, Subject, channels_of, choose_foreign, scale_of

_PICKLED = re.compile(r".+\.(pt|pth|pkl)|(custom|opaque)_obj_.*")


def check_program(path: Path) -> None:
    """Look at the pickles in a program's archive, without loading them.

    Raises: ExportError when the file is no program, or a pickle in it creates anything but tensors.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            refuse_bomb(path, archive)
            contents = {member.filename: archive.read(member) for member in archive.infolist() if not member.is_dir()}
    except CheckpointError as exc:
        raise ExportError(str(exc)) from exc
    except Exception as exc:  # a damaged archive makes zipfile raise half a dozen kinds of errors
        raise ExportError(f"{path}: not a torch.export program ({first_line(exc)}); save one with torch.export.save") from exc
    pickled = _named_in_configs(contents)
    for name, data in contents.items():
        base = PurePosixPath(name).name
        if (_PICKLED.fullmatch(base) or base in pickled) and (reason := _problem(data)):
            raise ExportError(
                f"{path}: its {name} {reason}, which no image network needs; it is not loaded, trusted or not. "
                "Export the network to ONNX in its own project and use the .onnx file"
            )


def from_program(path: Path, request: Request) -> Subject:
    """The subject of a program saved by torch.export.save.

    Raises: ExportError when nobody trusts the file, when it holds pickled code, or when it is not an image network with
    dynamic height and width.
    """
    check_program(path)
    if not request.trust:
        raise ExportError(
            f"{path}: a torch.export program, which can run code when it is loaded, so it is not. Export the network to ONNX "
            "in its own project and use the .onnx file, or vouch for this one with --trust (in Python: trust=True)"
        )
    try:
        program = torch.export.load(path)
    except Exception as exc:
        raise ExportError(f"{path}: not a torch.export program ({first_line(exc)}); save one with torch.export.save") from exc
    module = program.module()
    channels = _program_channels(program, path)
    probe = torch.zeros(1, channels, PROBE, PROBE)
    try:
        with torch.inference_mode():
            shape = tuple(module(probe).shape)
    except Exception as exc:
        raise ExportError(
            f"{path}: does not take {PROBE}x{PROBE} pixels ({first_line(exc)}); "
            "export it again with dynamic batch, height and width"
        ) from exc
    scale = scale_of(shape, channels, where=path.name)
    ranges = (1.0, 255.0)
    candidates = [_candidate(module, scale, channels, value_range) for value_range in ranges]
    choice = choose_foreign(candidates, request, path.name)
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


def _named_in_configs(contents: dict[str, bytes]) -> set[str]:
    """Files that the program's lists of weights and constants say are pickled."""
    named: set[str] = set()
    for name, data in contents.items():
        if name.endswith("_config.json"):
            try:
                entries = json.loads(data)["config"].values()
                named |= {str(entry["path_name"]) for entry in entries if entry.get("use_pickle", True)}
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                continue
    return named


def _problem(pickled: bytes) -> str:
    """What is wrong with a pickle, '' for one of plain tensors. Nothing of it is created but tensors."""
    try:
        torch.load(io.BytesIO(pickled), weights_only=True, map_location="cpu")
    except Exception as exc:
        calls = re.findall(r"GLOBAL ([\w.]+)", str(exc))
        return f"would call {calls[0]}" if calls else "holds something other than tensors"
    return ""


def _program_channels(program: Any, path: Path) -> int:
    args, kwargs = program.example_inputs or ((), {})
    shapes = [tuple(value.shape) for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)]
    if len(shapes) != 1 or len(shapes[0]) != 4:
        raise ExportError(f"{path}: its inputs are {shapes}, expected one image tensor (N, C, H, W)")
    return channels_of(shapes[0][1], shapes[0][1], where=path.name)


def _candidate(module: nn.Module, scale: int, channels: int, value_range: float) -> Candidate:
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
