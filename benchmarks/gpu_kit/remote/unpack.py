"""Keep the pieces that have arrived outside the tree, and unpack what is whole. Fails when a component asked for is not."""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import os
import shutil
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
STORE = Path(os.environ.get("KIT_STORE") or Path(tempfile.gettempdir(), "gpu-kit"))
CHUNK = 4 << 20

Table = dict[str, Any]


def main(wanted: Sequence[str]) -> int:
    started = time.monotonic()
    blobs: list[Table] = json.loads((HERE / "manifest.json").read_text())["blobs"]
    (STORE / "done").mkdir(parents=True, exist_ok=True)
    todo = [blob for blob in blobs if not marker(blob).exists()]
    problems = [problem for blob in todo for part in blob["parts"] if (problem := take_in(part))]
    problems += unpack_all([blob for blob in todo if not lacking(blob)])
    waiting = waiting_for(blobs)
    ready = sorted({blob["component"] for blob in blobs} - set(waiting))
    told = [f"here {', '.join(ready) or 'nothing'}"]
    told += [f"{name} waits for {', '.join(pieces)}" for name, pieces in waiting.items() if not name.startswith("untouched")]
    say(f"{'; '.join(told)} ({time.monotonic() - started:.1f} s)")
    for problem in problems:
        say(problem)
    refused = [name for name in wanted if name not in ready]
    if not refused:
        return 0
    pieces = dict.fromkeys(piece for name in refused for piece in waiting.get(name, ()))
    again = ", ".join(f".gpu/{piece}" for piece in pieces) or "what has such a component"
    say(f"REFUSED, {', '.join(refused)} not complete: carry {again} again, one a call")
    return 1


def take_in(part: Table) -> str:
    """Keep the part if it has arrived and is not kept yet; what is wrong with it, '' when nothing is."""
    arrived, kept = HERE.parent / part["piece"] / part["file"], kept_path(part)
    if not arrived.exists() or is_right(kept, part):
        return ""
    if not is_right(arrived, part):
        return f"{part['piece']}/{part['file']}: wrong checksum, carry .gpu/{part['piece']} again"
    kept.parent.mkdir(parents=True, exist_ok=True)
    incomplete = kept.with_name(f"{kept.name}.part")
    shutil.copyfile(arrived, incomplete)
    incomplete.replace(kept)
    return ""


def kept_path(part: Table) -> Path:
    return Path(STORE, "pieces", part["piece"], part["file"])


def is_right(path: Path, part: Table) -> bool:
    if not path.exists() or path.stat().st_size != part["size"]:
        return False
    with path.open("rb") as source:
        return bool(hashlib.file_digest(source, "sha256").hexdigest() == part["sha256"])


def lacking(blob: Table) -> list[str]:
    """Pieces that the blob waits for."""
    return list(dict.fromkeys(part["piece"] for part in blob["parts"] if not is_right(kept_path(part), part)))


def waiting_for(blobs: list[Table]) -> dict[str, list[str]]:
    """By component that is not complete, the pieces that it lacks; none where a whole blob did not unpack."""
    waiting: dict[str, list[str]] = {}
    for blob in blobs:
        if not marker(blob).exists():
            pieces = waiting.setdefault(blob["component"], [])
            pieces += [piece for piece in lacking(blob) if piece not in pieces]
    return waiting


def marker(blob: Table) -> Path:
    return STORE / "done" / f"{blob['name']}-{blob['sha256'][:12]}"


def unpack_all(blobs: list[Table]) -> list[str]:
    if not blobs:
        return []
    with ProcessPoolExecutor(len(blobs)) as pool:
        return [problem for problem in pool.map(unpack, blobs) if problem]


def unpack(blob: Table) -> str:
    """What went wrong, '' when all of it is in its place."""
    paths = [kept_path(part) for part in blob["parts"]]
    try:
        UNPACKERS[blob["kind"]](paths, blob)
    except Exception as error:
        return f"{blob['name']}: {type(error).__name__}: {error}"
    marker(blob).touch()
    return ""


def unpack_file(paths: list[Path], blob: Table) -> None:
    target = STORE / blob["target"]
    target.parent.mkdir(parents=True, exist_ok=True)
    incomplete = target.with_name(f"{target.name}.part")
    found, packer = hashlib.sha256(), lzma.LZMADecompressor()
    with incomplete.open("wb") as out:
        for path in paths:
            with path.open("rb") as source:
                while chunk := source.read(CHUNK):
                    data = packer.decompress(chunk)
                    found.update(data)
                    out.write(data)
    if found.hexdigest() != blob["raw_sha256"]:
        raise ValueError("does not unpack to what it was; carry its pieces again")
    incomplete.chmod(0o755)
    incomplete.replace(target)


def unpack_archive(paths: list[Path], blob: Table) -> None:
    contents = lzma.decompress(b"".join(path.read_bytes() for path in paths))
    with tarfile.open(fileobj=io.BytesIO(contents)) as tar:
        tar.extractall(STORE / blob["target"], filter="data")


def unpack_wheel(paths: list[Path], blob: Table) -> None:
    with zipfile.ZipFile(io.BytesIO(b"".join(path.read_bytes() for path in paths))) as wheel:
        wheel.extractall(STORE / blob["target"])


UNPACKERS = {"xz": unpack_file, "tar.xz": unpack_archive, "wheel": unpack_wheel}


def say(text: str) -> None:
    print(f"kit: {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
