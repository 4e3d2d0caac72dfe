"""Blobs: what travels, files alone and archives of small ones, compressed once and known by their contents."""

from __future__ import annotations

import hashlib
import io
import lzma
import sys
import tarfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

MIB = 1 << 20
CHUNK = 4 * MIB

Kind = Literal["xz", "tar.xz", "wheel"]


@dataclass(frozen=True)
class Source:
    """What a blob is made of: a file that becomes `target`, or an archive that is unpacked in the folder `target`.

    `component` is what calls ask for. `code`: machine code of x86-64, which packs better when it is known to be that.
    """

    name: str
    component: str
    kind: Kind
    target: str
    path: Path
    code: bool = False


@dataclass(frozen=True)
class Blob:
    """A source as it travels."""

    name: str
    component: str
    kind: Kind
    target: str
    path: Path
    size: int
    sha256: str
    raw_size: int
    raw_sha256: str


def say(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)


def archive(component: str, files: Mapping[str, Path | bytes], cache: Path) -> Source:
    """A tar of files, the same bytes for the same contents."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, source in sorted(files.items()):
            content = source if isinstance(source, bytes) else source.read_bytes()
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), 0o755 if ".so" in name else 0o644
            tar.addfile(info, io.BytesIO(content))
    contents = buffer.getvalue()
    path = cache / f"raw-{component}-{hashlib.sha256(contents).hexdigest()[:12]}.tar"
    if not path.exists():
        write_whole(path, contents)
    return Source(f"{component}-files", component, "tar.xz", "", path)


def compress(source: Source, cache: Path, level: int) -> Blob:
    """The source packed by xz; both ways are checked once."""
    raw_sha256 = digest(source.path)
    settings = "6" if source.kind == "tar.xz" else f"{'code' if source.code else 'data'}-{level}"
    packed = cache / f"{raw_sha256[:16]}-{settings}.xz"
    if not packed.exists():
        began = time.monotonic()
        _pack(source, packed, int(settings[-1]), raw_sha256)
        sizes = f"{source.path.stat().st_size / 1e6:.1f} -> {packed.stat().st_size / 1e6:.1f} MB"
        say(f"{source.name}: {sizes} in {time.monotonic() - began:.0f} s")
    return _blob(source, packed, source.path.stat().st_size, raw_sha256)


def whole_wheel(component: str, wheel: Path) -> Blob:
    """A wheel as it came, which is a component of its own."""
    name = f"untouched-{wheel.name.split('-')[0]}"
    return _blob(Source(name, f"untouched-{component}", "wheel", "site", wheel), wheel, wheel.stat().st_size, digest(wheel))


def digest(path: Path) -> str:
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def write_whole(path: Path, contents: bytes | bytearray) -> None:
    part = path.with_name(f"{path.name}.part")
    part.write_bytes(contents)
    part.replace(path)


def _blob(source: Source, path: Path, raw_size: int, raw_sha256: str) -> Blob:
    facts = (source.name, source.component, source.kind, source.target)
    return Blob(*facts, path, path.stat().st_size, digest(path), raw_size, raw_sha256)


def _pack(source: Source, packed: Path, preset: int, raw_sha256: str) -> None:
    filters: list[dict[str, int]] = [{"id": lzma.FILTER_X86}] if source.code else []
    filters.append({"id": lzma.FILTER_LZMA2, "preset": preset, "dict_size": 64 * MIB})
    packer = lzma.LZMACompressor(filters=filters)
    part = packed.with_name(f"{packed.name}.part")
    with source.path.open("rb") as raw, part.open("wb") as target:
        while chunk := raw.read(CHUNK):
            target.write(packer.compress(chunk))
        target.write(packer.flush())
    if _unpacked_digest(part) != raw_sha256:
        sys.exit(f"{packed}: does not unpack to what it was made of; run it again")
    part.replace(packed)


def _unpacked_digest(path: Path) -> str:
    found = hashlib.sha256()
    with lzma.open(path) as source:
        while chunk := source.read(CHUNK):
            found.update(chunk)
    return found.hexdigest()
