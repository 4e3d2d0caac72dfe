"""What was measured of foreign graphs, once for each content of a file.

FOLDER/
  3f8a0c61....json   the card, and the sha256 of the portable form, '' where the file itself is one
  3f8a0c61....onnx   the portable form, where it is not the file itself
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from pathlib import Path

from onnx import ModelProto

from sr_deploy import files
from sr_deploy.apart import main, run_apart
from sr_deploy.bundle import Bundle, sha256_of
from sr_deploy.card import GraphCard, ModelCard, Source
from sr_deploy.engines.foreign import describe, to_portable
from sr_deploy.engines.tensorrt.cache import default_folder
from sr_deploy.errors import BackendUnavailableError, BundleError, first_line

_MODULE = "sr_deploy.engines.foreign_cache"
_MANY, _SECONDS = 1000, 60

FORMAT = 1
"""It rises when graphs are read in another way."""


def open_foreign(path: Path, *, nodes: int) -> Bundle:
    """A foreign graph as a bundle: measured when it is first opened, and taken from the cache of the user after that.

    One of many `nodes` is measured by a process of its own: runtimes may take for ever to prepare for it.

    Raises: BundleError, BackendUnavailableError.
    """
    digest = sha256_of(path)
    entry = default_folder().with_name("graphs") / f"{digest}.json"
    found = _read(entry)
    if found is None and nodes > _MANY:
        if reason := run_apart(_MODULE, path, seconds=_SECONDS):
            raise BundleError(f"{path}: {reason.removeprefix(f'{path.absolute()}: ')}; simplify the graph first")
        found = _read(entry)
    if found is None:
        try:
            card, model, rewritten = describe(path, to_portable(path))
        except (BundleError, BackendUnavailableError):
            raise
        except Exception as exc:  # ONNX and the runtimes raise anything on graphs that are damaged
            reason = first_line(exc)
            raise BundleError(f"{path}: not a graph of images that runs here ({reason}); export it again") from exc
        found = card, _write(entry, card, model if rewritten else None)
    card, graph = found
    card = dataclasses.replace(card, name=path.stem, source=Source(path.name, digest))
    file = entry.with_suffix(".onnx") if graph else path
    return Bundle(file.parent, card, {"fp32": GraphCard(file.name, "fp32", graph or digest, 0)})


def _measure(path: Path) -> None:
    open_foreign(path, nodes=0)


def _read(entry: Path) -> tuple[ModelCard, str] | None:
    """Card and hash of what is in the cache, None where it is not whole."""
    try:
        table = json.loads(entry.read_text(encoding="utf-8"))
        if table["format"] != FORMAT:
            return None
        card, graph = ModelCard.from_json(json.dumps(table["card"]), where=str(entry)), str(table["graph"])
        if graph and sha256_of(entry.with_suffix(".onnx")) != graph:
            return None
    except (OSError, ValueError, KeyError, TypeError, BundleError):
        return None
    return card, graph


def _write(entry: Path, card: ModelCard, model: ModelProto | None) -> str:
    """Keep what was measured; the sha256 of the portable form, '' where the file itself is one.

    Raises: BundleError when a portable form cannot be kept.
    """
    file = entry.with_suffix(".onnx")
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        if model is not None:
            files.write_whole(file, _part(file), model.SerializeToString(deterministic=True))
    except OSError as exc:
        if model is not None:
            raise BundleError(
                f"{file}: cannot be written ({exc.strerror}), and this graph runs in another form than its file's; point "
                "XDG_CACHE_HOME to another folder"
            ) from exc
        return ""
    graph = "" if model is None else sha256_of(file)
    text = json.dumps({"format": FORMAT, "card": dataclasses.asdict(card), "graph": graph}, indent=1)
    with contextlib.suppress(OSError):
        files.write_whole(entry, _part(entry), text.encode())
    return graph


def _part(path: Path) -> Path:
    return path.with_name(f"{path.name}.part-{os.getpid()}")


if __name__ == "__main__":
    main(_measure)
