"""Blobs cut into pieces, one of which travels with the tree at a time; and the manifest that joins them again."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from blobs import MIB, Blob

LEAST_ROOM = MIB
"""A piece with less room than that is full."""


@dataclass(frozen=True)
class Part:
    """One file of a piece."""

    piece: str
    file: str
    size: int
    sha256: str


Layout = dict[str, list[Part]]
"""By name of the blob, its parts in order."""


def tree_files(checkout: Path) -> set[Path]:
    """The tracked files, those that git does not ignore, and those of shared/, which travel too."""
    command = ["git", "-C", str(checkout), "ls-files", "-coz", "--exclude-standard"]
    listed = subprocess.run(command, capture_output=True, check=True).stdout
    files = {checkout / os.fsdecode(name) for name in listed.split(b"\0") if name} | set((checkout / "shared").rglob("*"))
    return {path for path in files if path.is_symlink() or path.is_file()}


def size_of(files: Iterable[Path]) -> int:
    return sum(path.lstat().st_size for path in files)


def lay_out(blobs: Iterable[Blob], folder: Path, letter: str, room: int) -> Layout:
    """Cut the blobs one after the other into folder/p1, p2.. of at most `room` bytes; the letter is theirs."""
    layout: Layout = {}
    number, left = 0, 0
    for blob in blobs:
        parts: list[Part] = layout.setdefault(blob.name, [])
        with blob.path.open("rb") as source:
            while sum(part.size for part in parts) < blob.size:
                if left < min(LEAST_ROOM, room):
                    number, left = number + 1, room
                    (folder / f"{letter}{number}").mkdir(parents=True)
                chunk = source.read(left)
                left -= len(chunk)
                part = Part(f"{letter}{number}", f"{blob.name}.{len(parts):02d}", len(chunk), hashlib.sha256(chunk).hexdigest())
                (folder / part.piece / part.file).write_bytes(chunk)
                parts.append(part)
    return layout


def pieces_of(layout: Layout) -> list[str]:
    """Names of the pieces in their order."""
    return list(dict.fromkeys(part.piece for parts in layout.values() for part in parts))


def complete_with(blobs: Iterable[Blob], layout: Layout) -> dict[str, int]:
    """By component, the number of the piece with which it is complete."""
    ready: dict[str, int] = {}
    for blob in blobs:
        last = max(int(part.piece[1:]) for part in layout[blob.name])
        ready[blob.component] = max(ready.get(blob.component, 1), last)
    return ready


def manifest(blobs: Sequence[Blob], layout: Mapping[str, list[Part]], arch: int) -> str:
    told = [
        {
            **{key: value for key, value in asdict(blob).items() if key != "path"},
            "parts": [asdict(part) for part in layout[blob.name]],
        }
        for blob in blobs
    ]
    return json.dumps({"arch": arch, "blobs": told}, indent=1)


def check(folder: Path, layout: Layout, tree: int, limit: float) -> dict[str, float]:
    """MiB that a call with each piece sends; ends the program when one is too large or the pieces are not the blobs."""
    kit = size_of(path for path in (folder / "kit").iterdir())
    print(f"\ntree {tree / MIB:.2f} MiB, kit {kit / MIB:.2f} MiB")
    sizes: dict[str, float] = {}
    for piece in pieces_of(layout):
        files = sorted((folder / piece).iterdir())
        own = size_of(files)
        sizes[piece] = (tree + kit + own) / MIB
        names = ", ".join(path.name for path in files)
        print(f"{piece}: {own / MIB:.2f} MiB, with tree and kit {sizes[piece]:.2f} MiB: {names}")
        if sizes[piece] >= limit:
            sys.exit(f"{piece}: a call would send {sizes[piece]:.2f} MiB; expected less than {limit}")
    for blob in json.loads((folder / "kit" / "manifest.json").read_text())["blobs"]:
        joined = hashlib.sha256()
        for part in blob["parts"]:
            joined.update((folder / part["piece"] / part["file"]).read_bytes())
        if joined.hexdigest() != blob["sha256"]:
            sys.exit(f"{blob['name']}: its parts are not it; run it again")
    print("sizes and checksums are right")
    return sizes
