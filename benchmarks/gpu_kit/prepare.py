"""Lay out in this checkout what a bare, offline machine with a GPU needs, in pieces of less than 64 MiB.

python benchmarks/gpu_kit/prepare.py [--data DIR] [--python 3.12] [--wheels DIR] [--cache DIR] [--untouched ort,warp,rtx]

Downloads wheels, keeps of their device code what the GPU runs, compresses them, exports bundles with the project's own command,
and cuts it all into .gpu/p1..pN, so that the tree and one of them stay below --limit MiB. Everything is cached by its contents:
after a failure or a change only what changed is made again. `--untouched` adds pieces u1..uM with the wheels as they came, for
when a pruned library does not work. Prints the calls with what each carries, and writes them to .gpu/calls.json.
"""

from __future__ import annotations

import argparse
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from blobs import MIB, Blob, Source, compress, say, whole_wheel
from calls import plan_calls, print_calls, write_calls
from contents import own_files
from pieces import Layout, check, complete_with, lay_out, manifest, size_of, tree_files
from wheels import WHEELS, download, split_wheels

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
ARCH = 90
"""Compute capability 9.0."""

LIMIT = 62.9
MANIFEST_ROOM = 1 << 16


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    started = time.monotonic()
    cache: Path = options.cache.resolve()
    cache.mkdir(parents=True, exist_ok=True)
    say("wheels")
    wheels = find_wheels(cache, options.wheels, options.python)
    say("bundles and large files")
    blobs = make_blobs(wheels, options.data.resolve(), cache, options.level)
    untouched = [whole_wheel(name, wheel) for name in filter(None, options.untouched.split(",")) for wheel in wheels[name]]
    layout, sizes = lay_out_all(blobs, untouched, ROOT / ".gpu", options.limit)
    calls = plan_calls(complete_with(blobs, layout), sizes)
    write_calls(calls, ROOT / ".gpu" / "calls.json")
    print(f"\n{time.monotonic() - started:.0f} s in all")
    print_calls(calls)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared", help="folder with checkpoints/ and golden/")
    parser.add_argument("--python", default="3.12", help="version of the machine with the GPU")
    parser.add_argument("--wheels", type=Path, help="folder of wheels to look in before the package index")
    parser.add_argument("--cache", type=Path, default=ROOT / ".gpu" / "cache")
    parser.add_argument("--limit", type=float, default=LIMIT, help="MiB of the tree and a piece together")
    parser.add_argument("--untouched", default="", help="components whose wheels are laid out as they came: ort,warp,rtx")
    parser.add_argument("--level", type=int, default=1, help="of compression; 4 takes three times as long and may save a piece")
    return parser.parse_args(arguments)


def find_wheels(cache: Path, first: Path | None, python: str) -> dict[str, list[Path]]:
    folder = cache / f"wheels-{python}"
    return {name: [download(one, folder, first, python) for one in wanted] for name, wanted in WHEELS.items()}


def make_blobs(wheels: dict[str, list[Path]], data: Path, cache: Path, level: int) -> list[Blob]:
    """The project's own files first, then component by component."""

    def compressed(source: Source) -> Blob:
        return compress(source, cache, level)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        own = pool.submit(own_files, ROOT, data, cache)
        sources = [source for name, found in wheels.items() for source in split_wheels(name, found, cache, ARCH)]
        say(f"compressing {len(sources)} blobs")
        return [*pool.map(compressed, [own.result()]), *pool.map(compressed, sources)]


def lay_out_all(blobs: list[Blob], untouched: list[Blob], gpu: Path, limit: float) -> tuple[Layout, dict[str, float]]:
    """The pieces and the kit in the folder `gpu`, checked; and the MiB that a call with each piece sends."""
    remote = [path for path in (HERE / "remote").iterdir() if path.is_file()]
    tree = size_of(tree_files(ROOT))
    room = int(limit * MIB) - tree - size_of(remote) - MANIFEST_ROOM
    for old in gpu.glob("[pu][0-9]*"):
        shutil.rmtree(old)
    layout = {**lay_out(blobs, gpu, "p", room), **lay_out(untouched, gpu, "u", room)}
    kit = gpu / "kit"
    shutil.rmtree(kit, ignore_errors=True)
    kit.mkdir(parents=True)
    for path in remote:
        shutil.copy2(path, kit)
    (kit / "manifest.json").write_text(manifest([*blobs, *untouched], layout, ARCH), encoding="utf-8")
    return layout, check(gpu, layout, tree, min(limit + 0.1, 63.0))


if __name__ == "__main__":
    main()
