"""What an interrupted run needs to go on exactly: one file, written whole or not at all."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sr_deploy import files
from sr_deploy.errors import CheckpointError, UsageError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

FORMAT = 1


@dataclass(frozen=True)
class LogLine:
    """One line of the log: means since the line before it, and what validation measured; `step` counts over all stages."""

    step: int
    stage: int
    learning_rate: float
    loss: float
    psnr_y: float
    ssim_y: float
    seconds: float


@dataclass(frozen=True)
class TrainingState:
    """A run between two steps; `identity` tells what it depends on.

    stage: counted from 0; step: steps of this stage that are done. losses: those since the last line of the log. The names of
    `params` and `params_ema` are those that readers of checkpoints know, so a state can be started from.
    """

    identity: str
    stage: int
    step: int
    seconds: float
    losses: list[float]
    params: dict[str, Tensor]
    params_ema: dict[str, Tensor]
    optimizer: dict[str, Any]
    log: tuple[LogLine, ...]


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Make the folder, and keep other processes from training into it; the system lets go when this process ends.

    Raises: UsageError when another process is at work; CheckpointError when the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / "lock").open("ab")
    except OSError as exc:
        raise CheckpointError(f"{folder}: cannot be made or written ({exc.strerror}); name another output folder") from exc
    with file:
        try:
            if sys.platform == "win32":
                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            raise UsageError(f"{folder}: another process trains into it; wait for it, or name another folder") from exc
        yield


def save_state(path: Path, state: TrainingState) -> None:
    """Write a state; the file before it stays until the new one is whole. Raises: CheckpointError when it cannot be written."""
    content = {"format": FORMAT, **vars(state), "log": [asdict(entry) for entry in state.log]}
    save_weights(path, content)


def load_state(path: Path, identity: str) -> TrainingState | None:
    """The state in a file, on the CPU; None where there is no file.

    Raises: CheckpointError for a damaged file; UsageError when the run was of another recipe or other photos.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        return None
    except Exception as exc:  # a damaged file can make the reader raise anything
        raise CheckpointError(f"{path}: damaged; remove it to train from the beginning") from exc
    if content.get("format") != FORMAT:
        raise CheckpointError(f"{path}: the state of another version of sr-deploy; remove it to train from the beginning")
    if content["identity"] != identity:
        raise UsageError(
            f"{path}: belongs to a run with another recipe or other photos; give another output folder, or remove it to train "
            "from the beginning"
        )
    del content["format"]
    return TrainingState(**content | {"log": tuple(LogLine(**entry) for entry in content["log"])})


def save_weights(path: Path, content: Mapping[str, Any]) -> None:
    """Write tensors in torch's format, whole or not at all. Raises: CheckpointError when it cannot be written."""
    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    write_whole(path, buffer.getvalue())


def write_whole(path: Path, data: bytes) -> None:
    """Write a file, whole or not at all. Raises: CheckpointError when it cannot be written."""
    try:
        files.write_whole(path, path.with_name(f"{path.name}.part"), data)
    except OSError as exc:
        raise CheckpointError(f"{path}: cannot be written ({exc.strerror}); make room, and run the same command again") from exc
