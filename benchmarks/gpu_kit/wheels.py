"""Wheels of the machine with the GPU, and of their device code what its GPU runs."""

from __future__ import annotations

import struct
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from blobs import MIB, Source, archive, say, write_whole

PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in (28, 27, 24, 17)] + ["manylinux2014_x86_64"]
WHEELS = {
    "ort": ["onnxruntime-gpu==1.31.1"],
    "warp": ["warp-lang==1.19.0"],
    "rtx": ["tensorrt-rtx-cu13-bindings==1.7.1.116", "tensorrt-rtx-cu13-libs==1.7.1.116"],
}
BIG = 20 * MIB
"""Files from that size on are blobs of their own."""

LEFT_OUT = (
    "warp/examples/",
    "warp/tests/",
    "warp/bin/warp-clang.so",
    "onnxruntime/transformers/",
    "onnxruntime/tools/",
    "onnxruntime/quantization/",
    "onnxruntime/datasets/",
    "onnxruntime/capi/libonnxruntime.so",
    "onnxruntime/capi/libonnxruntime_providers_tensorrt.so",
    "onnxruntime/ThirdPartyNotices.txt",
)

_MAGIC = struct.pack("<IHH", 0xBA55ED50, 1, 16)
"""What a container of device code starts with: its number, version 1, a header of 16 bytes."""

_KINDS = (1, 2, 4, 8, 16, 32)
_CUBIN = 2


@dataclass(frozen=True)
class Entry:
    """One piece of device code in a container; `arch` is 90 for compute capability 9.0."""

    kind: int
    arch: int
    start: int
    size: int


def download(requirement: str, folder: Path, first: Path | None, python: str) -> Path:
    """The wheel of `name==version` for that Python, from `folder`, else from `first`, else from the package index."""
    name, version = requirement.split("==")
    tag = f"cp{python.replace('.', '')}"
    pattern = f"{name.replace('-', '_')}-{version}-*.whl"
    folder.mkdir(parents=True, exist_ok=True)
    for place in (folder, first):
        found = sorted(place.glob(pattern)) if place else []
        if fitting := [one for one in found if f"-{tag}-" in one.name or "-py3-" in one.name]:
            return fitting[0]
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "--implementation", "cp"]
    platforms = [f"--platform={one}" for one in PLATFORMS]
    subprocess.run([*command, "--python-version", python, *platforms, "-d", folder, requirement], check=True)
    return sorted(folder.glob(pattern))[0]


def split_wheels(component: str, wheels: list[Path], cache: Path, arch: int) -> list[Source]:
    """Large files, each pruned and alone; the rest of the wheels as one archive."""
    small: dict[str, Path | bytes] = {}
    sources = []
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as contents:
            for entry in contents.infolist():
                if entry.is_dir() or entry.filename.startswith(LEFT_OUT):
                    continue
                if entry.file_size < BIG:
                    small[f"site/{entry.filename}"] = contents.read(entry)
                    continue
                name = Path(entry.filename).name
                path = cache / f"raw-{name}-{entry.CRC:08x}-{arch}"
                if not path.exists():
                    pruned, told = prune(bytearray(contents.read(entry)), arch)
                    say(f"{entry.filename}: {told}")
                    write_whole(path, pruned)
                target, is_code = f"site/{entry.filename}", "providers_cuda" not in name
                sources.append(Source(name.split(".")[0], component, "xz", target, path, is_code))
    return [*sources, archive(component, small, cache)]


def prune(library: bytearray, arch: int) -> tuple[bytearray, str]:
    """Zero the device code that a GPU of that architecture never runs; nothing moves.

    A container that has no code for it is left whole: the driver may compile its PTX.
    """
    zeroed, kept, whole = 0, 0, 0
    for entries in _containers(library):
        if not any((entry.kind, entry.arch) == (_CUBIN, arch) for entry in entries):
            whole += 1
            continue
        for entry in entries:
            if (entry.kind, entry.arch) == (_CUBIN, arch):
                kept += entry.size
            else:
                library[entry.start : entry.start + entry.size] = bytes(entry.size)
                zeroed += entry.size
    return library, f"{zeroed / 1e6:.0f} MB of device code zeroed, {kept / 1e6:.0f} MB kept, {whole} containers left whole"


def _containers(library: bytearray) -> Iterator[list[Entry]]:
    place = 0
    while (place := library.find(_MAGIC, place)) >= 0:
        entries, end = _entries(library, place)
        if entries:
            yield entries
        place = end


def _entries(library: bytearray, place: int) -> tuple[list[Entry], int]:
    """Of the container at `place`, and where it ends; none where it only looks like one."""
    if place + 16 > len(library):
        return [], len(library)
    (total,) = struct.unpack_from("<Q", library, place + 8)
    at, end, entries = place + 16, place + 16 + total, []
    while at < end <= len(library) and at + 64 <= end:
        kind, _, header, size = struct.unpack_from("<HHIQ", library, at)
        if not (64 <= header <= 4096 and kind in _KINDS and at + header + size <= end):
            break
        entries.append(Entry(kind, struct.unpack_from("<I", library, at + 28)[0], at + header, size))
        at += header + size
    return (entries, end) if at == end and entries else ([], place + 4)
