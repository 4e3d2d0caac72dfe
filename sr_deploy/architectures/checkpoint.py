"""Checkpoint files -> state dicts, without ever running what a file holds."""

from __future__ import annotations

import hashlib
import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sr_deploy.architectures.checkpoint_weights import find_weights
from sr_deploy.errors import CheckpointError, MissingDependencyError, first_line
from sr_deploy.filetypes import read_start

TRAINED_AS = "sr-deploy"
"""The key under which our own training writes what weights cannot tell, as value_range = 255.0."""

_PLAIN_FLOATS = "expected plain floats; use the checkpoint before that"
_LARGEST = 1e30
"""Beyond all that was ever trained, where products overflow; masks may hold the largest float itself."""

_SLACK = 64 << 20
"""Bytes that a file may claim beyond four times what it holds: half floats become floats, and small tensors are forgiven."""


@dataclass(frozen=True)
class Checkpoint:
    """The weights of one file.

    `state`: floating-point tensors in float32 on the CPU, keys without training prefixes. `wrapper`: where in the file they
    were, such as 'params_ema'; empty for a bare state dict. `left`: where other weights were, which were not taken.
    `settings`: what our own training wrote of what weights cannot tell. `sha256`: of the file's bytes.
    """

    path: Path
    sha256: str
    state: dict[str, Tensor]
    wrapper: str
    left: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read the weights of a .pth, .pt, .ckpt, .pkl or .safetensors file.

    Raises: CheckpointError with the reason and the way out; MissingDependencyError where safetensors is needed and missing.
    """
    start = read_start(path)
    if path.suffix == ".onnx":
        raise CheckpointError(f"{path}: an ONNX graph, not a checkpoint; it needs no export")
    content = _read_safetensors(path) if _is_safetensors(path, start) else _read_torch(path, start)
    weights = find_weights(path, content)
    _refuse_claims(path, weights.tensors)
    state = {key: _plain(path, key, tensor) for key, tensor in weights.tensors.items()}
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Checkpoint(path, digest, state, weights.wrapper, weights.left, _settings(content))


def _settings(content: Any) -> dict[str, Any]:
    found = content.get(TRAINED_AS) if isinstance(content, Mapping) else None
    return dict(found) if isinstance(found, Mapping) else {}


def _is_safetensors(path: Path, start: bytes) -> bool:
    """By content: a header in JSON after its length in eight bytes; the suffix decides for a file that is neither."""
    is_torch = start.startswith((b"PK", b"\x80"))
    return start[8:9] == b"{" or (path.suffix == ".safetensors" and not is_torch)


def _read_safetensors(path: Path) -> Any:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as exc:
        raise MissingDependencyError(f"{path}: needs safetensors; install it with `pip install safetensors`") from exc
    try:
        return load_file(path, device="cpu")
    except (SafetensorError, OSError, ValueError) as exc:
        raise CheckpointError(f"{path}: not a complete safetensors file ({exc}); download or copy it again") from exc


def _read_torch(path: Path, start: bytes) -> Any:
    if start.startswith(b"PK"):
        _refuse_other_archives(path)
    try:
        with path.open("rb") as file:
            content = torch.load(file, weights_only=True, map_location="cpu")
            behind = 0 if start.startswith(b"PK") else path.stat().st_size - file.tell()
    except pickle.UnpicklingError as exc:
        pickled = _pickled_classes(path, str(exc))
        if pickled:
            raise CheckpointError(f"{path}: {_explain_pickled(pickled)}") from exc
        raise CheckpointError(f"{path}: not a PyTorch checkpoint; expected a .pth, .pt, .ckpt or .safetensors file") from exc
    except Exception as exc:
        # A damaged pickle stream can make the reader raise anything.
        reason = first_line(exc)
        raise CheckpointError(f"{path}: damaged or not a PyTorch checkpoint ({reason}); download or copy it again") from exc
    if behind:
        raise CheckpointError(f"{path}: damaged, {behind} bytes stand behind its last weight; download or copy it again")
    return content


def refuse_bomb(path: Path, archive: zipfile.ZipFile) -> None:
    """Raises: CheckpointError for an archive that unpacks to far more than it has; weights hardly shrink."""
    unpacked, size = sum(member.file_size for member in archive.infolist()), path.stat().st_size
    if unpacked > 4 * size + _SLACK:
        raise CheckpointError(
            f"{path}: {size >> 10} KiB that unpack to {unpacked >> 20} MiB; weights hardly shrink, get it again"
        )


def _refuse_damage(path: Path, archive: zipfile.ZipFile) -> None:
    """Compare the checksums of an archive, which torch does not; it may also have been told to write none.

    Raises: CheckpointError when some fit and others do not.
    """
    members = archive.infolist()
    damaged = [member.filename for member in members if not _fits_its_checksum(archive, member)]
    if 0 < len(damaged) < len(members):
        raise CheckpointError(f"{path}: damaged (wrong checksum of {damaged[0]}); download or copy it again")


def _fits_its_checksum(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bool:
    try:
        with archive.open(member) as file:
            while file.read(1 << 20):
                pass
    except zipfile.BadZipFile:
        return False
    return True


def _refuse_other_archives(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            refuse_bomb(path, archive)
            _refuse_damage(path, archive)
    except CheckpointError:
        raise
    except Exception as exc:  # a damaged directory makes zipfile raise half a dozen kinds of errors
        reason = "its zip directory is missing or damaged"
        raise CheckpointError(f"{path}: cut off or damaged ({reason}); download or copy it again") from exc
    if any(name.endswith("constants.pkl") or "/code/" in name for name in names):
        raise CheckpointError(
            f"{path}: a TorchScript program, not a state dict; in the project that made it, save the weights: "
            "torch.save(model.state_dict(), 'weights.pth')"
        )
    if any(name.endswith(("archive_format", "models/model.json", "serialized_exported_program.json")) for name in names):
        raise CheckpointError(
            f"{path}: a torch.export program, not a state dict; in the project that made it, save the weights: "
            "torch.save(model.state_dict(), 'weights.pth')"
        )
    if not any(name.endswith("data.pkl") for name in names):
        raise CheckpointError(f"{path}: a zip archive without weights ({', '.join(names[:3])}); unpack it first")


def _pickled_classes(path: Path, message: str) -> tuple[str, ...]:
    """Names of the classes that the file wants to create, found without creating any."""
    try:
        with path.open("rb") as file:
            return tuple(sorted(torch.serialization.get_unsafe_globals_in_checkpoint(file)))
    except Exception:
        # It reads zip archives only; a file of the older format is known by the first class that was refused.
        return tuple(re.findall(r"GLOBAL ([\w.]+)", message)[:1])


def _explain_pickled(pickled: tuple[str, ...]) -> str:
    names = ", ".join(pickled[:4]) + (f" and {len(pickled) - 4} more" if len(pickled) > 4 else "")
    if any(name.startswith("torch.nn.modules.") for name in pickled):
        return (
            f"a whole pickled nn.Module ({names}), which only its own code can open; in the project that made it, save the "
            "weights alone: torch.save(model.state_dict(), 'weights.pth')"
        )
    return (
        f"pickled objects beside the weights ({names}), which are never loaded because they can run code; in the project that "
        "made it, save the weights alone: torch.save(model.state_dict(), 'weights.pth')"
    )


def _refuse_claims(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors that would take far more memory than the file holds, as those of stride 0 do."""
    for key, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_nested or tensor.is_meta:
            raise CheckpointError(
                f"{path}: '{key}' is quantized or sparse, expected plain floats; use the checkpoint before that"
            )
    stored = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors.values()}
    claimed = 4 * sum(tensor.numel() for tensor in tensors.values())
    if claimed > 4 * sum(stored.values()) + _SLACK:
        raise CheckpointError(
            f"{path}: its tensors claim {claimed >> 20} MiB, but it holds {sum(stored.values()) >> 10} KiB of numbers; "
            "save contiguous weights, model.state_dict()"
        )


def _plain(path: Path, key: str, tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    if not tensor.is_floating_point():
        return tensor
    try:
        tensor = tensor.to(torch.float32)
    except RuntimeError as exc:
        raise CheckpointError(
            f"{path}: '{key}' is of {tensor.dtype}, expected plain floats; use the checkpoint before that"
        ) from exc
    if not bool(torch.isfinite(tensor).all()):
        raise CheckpointError(f"{path}: '{key}' holds NaN or Inf, so its training diverged; use an earlier checkpoint")
    sizes = tensor.abs()
    odd = sizes[(sizes > _LARGEST) & (sizes < torch.finfo(torch.float32).max)]
    if len(odd):
        raise CheckpointError(f"{path}: damaged, '{key}' holds {float(odd[0]):.3g}; download or copy it again")
    return tensor
