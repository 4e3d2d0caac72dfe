"""Checkpoint files -> state dicts, without ever running what a file holds."""

from __future__ import annotations

import hashlib
import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sr_deploy.errors import CheckpointError, MissingDependencyError, first_line

WRAPPERS = (
    *("params_ema", "params", "state_dict", "model_state_dict", "model"),
    *("generator", "netG", "g", "net"),
)
PREFIXES = ("module.", "model.", "network.", "generator.", "_orig_mod.", "net.")


@dataclass(frozen=True)
class Checkpoint:
    """The weights of one file.

    `state`: floating-point tensors in float32 on the CPU, keys without training prefixes. `wrapper`: where in the file they
    were, such as 'params_ema'; empty for a bare state dict. `sha256`: of the file's bytes.
    """

    path: Path
    sha256: str
    state: dict[str, Tensor]
    wrapper: str


def read_checkpoint(path: Path) -> Checkpoint:
    """Read the weights of a .pth, .pt, .ckpt, .pkl or .safetensors file.

    Raises: CheckpointError with the reason and the way out; MissingDependencyError where safetensors is needed and missing.
    """
    start = _open(path)
    _refuse_other_files(path, start)
    content = _read_safetensors(path) if _is_safetensors(path, start) else _read_torch(path, start)
    tensors, wrapper = _unwrap(path, content)
    state = {key: _plain(path, key, tensor) for key, tensor in _strip_prefixes(tensors).items()}
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Checkpoint(path, digest, state, wrapper)


def _open(path: Path) -> bytes:
    """First bytes of the file."""
    try:
        with path.open("rb") as file:
            start = file.read(1024)
    except FileNotFoundError as exc:
        raise CheckpointError(f"{path}: no such file; check the path") from exc
    except IsADirectoryError as exc:
        raise CheckpointError(f"{path}: a folder, expected one checkpoint file; name the file inside it") from exc
    except OSError as exc:
        raise CheckpointError(f"{path}: cannot be read ({exc.strerror}); check the file's permissions") from exc
    if not start:
        raise CheckpointError(f"{path}: empty (0 bytes); download or copy it again")
    return start


def _refuse_other_files(path: Path, start: bytes) -> None:
    if path.suffix == ".onnx":
        raise CheckpointError(f"{path}: an ONNX graph, not a checkpoint; it needs no export")
    if b"\0" in start:
        return
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{path}: a Git LFS pointer, not the weights; run `git lfs pull` in its repository")
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<body")):
        raise CheckpointError(f"{path}: a web page saved under a checkpoint's name; download the file itself again")
    if text.startswith((b"{", b"[")):
        raise CheckpointError(f"{path}: a JSON text, often a server's error; download the file itself again")


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
            return torch.load(file, weights_only=True, map_location="cpu")
    except pickle.UnpicklingError as exc:
        pickled = _pickled_classes(path, str(exc))
        if pickled:
            raise CheckpointError(f"{path}: {_explain_pickled(pickled)}") from exc
        raise CheckpointError(f"{path}: not a PyTorch checkpoint; expected a .pth, .pt, .ckpt or .safetensors file") from exc
    except Exception as exc:
        # A damaged pickle stream can make the reader raise anything.
        reason = first_line(exc)
        raise CheckpointError(f"{path}: damaged or not a PyTorch checkpoint ({reason}); download or copy it again") from exc


def _refuse_other_archives(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
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


def _unwrap(path: Path, content: Any) -> tuple[dict[str, Tensor], str]:
    """The state dict inside `content`, and the keys that lead to it."""
    trail: list[str] = []
    while True:
        if not isinstance(content, Mapping) or not content:
            kind = "an empty dict" if isinstance(content, Mapping) else f"a {type(content).__name__}"
            inside = f" under '{'.'.join(trail)}'" if trail else ""
            raise CheckpointError(f"{path}: holds {kind}{inside}, expected a state dict; save model.state_dict() again")
        wrapper = next((key for key in WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if wrapper is None:
            break
        trail.append(wrapper)
        content = content[wrapper]
    tensors = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}
    if not tensors:
        keys = ", ".join(f"'{key}'" for key in list(content)[:5])
        raise CheckpointError(
            f"{path}: no weights found among its keys {keys}; expected a state dict, bare or under one of {', '.join(WRAPPERS)}"
        )
    return tensors, ".".join(trail)


def _strip_prefixes(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    while prefix := next((prefix for prefix in PREFIXES if all(key.startswith(prefix) for key in tensors)), None):
        tensors = {key.removeprefix(prefix): tensor for key, tensor in tensors.items()}
    return tensors


def _plain(path: Path, key: str, tensor: Tensor) -> Tensor:
    if tensor.layout != torch.strided or tensor.is_quantized:
        raise CheckpointError(f"{path}: '{key}' is quantized or sparse, expected plain floats; use the checkpoint before that")
    tensor = tensor.detach()
    if not tensor.is_floating_point():
        return tensor
    tensor = tensor.to(torch.float32)
    if not bool(torch.isfinite(tensor).all()):
        raise CheckpointError(f"{path}: '{key}' holds NaN or Inf, so its training diverged; use an earlier checkpoint")
    return tensor
