"""Damaged cards and probes of bundles: what they are run with must give the pixels of the undamaged bundle, or be refused."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from cases import Case, Kind, Run, Seed
from mutations import damage_bytes
from numpy.typing import NDArray
from PIL import Image

from sr_deploy.models import resolve

NETWORK = "fast-x2"
VERIFY_SHARE = 4
"""One of so many is verified too."""

ODD_VALUES: dict[type, tuple[Any, ...]] = {
    bool: (True, False),
    int: (0, -1, 1, 2, 3, 4, 5, 7, 64, 2**31, 10**9, 10**30),
    float: (0.0, -1.0, 0.5, 1.0, 255.0, 256.0, 1e-300, 1e308, float("nan"), float("inf")),
    str: (
        "",
        "x",
        "../fp32.onnx",
        "/etc/passwd",
        "fp16.onnx",
        "a\0b",
        "\ud800",
        "x" * 100_000,
        "exact",
        "approximate",
        "card.json",
    ),
    list: ([], [None], [[]], ["fp32"], [0, 1]),
    dict: ({}, {"": None}, {"fp32": {}}),
    type(None): (None,),
}
SECTIONS = ("model", "model", "model", "graphs", "graphs", "certificate")


class Cards(Kind):
    name = "card"
    suffixes = frozenset({".json"})

    def make_seeds(self, folder: Path) -> None:
        shutil.copy(resolve(NETWORK) / "card.json", folder / "card.json")

    def damage(self, random: Random, seed: Seed, other: Seed) -> tuple[bytes, str, str]:
        if random.random() < 0.2:
            data, how = damage_bytes(random, seed.data, other.data)
            return data, how, ".json"
        card = json.loads(seed.data)
        done = [_change(random, card) for _ in range(random.choice((1, 1, 1, 2, 3)))]
        return json.dumps(card, indent=1).encode(), ", then ".join(done), ".json"

    def run(self, path: Path, case: Case) -> Run:
        run = Run()
        bundle = path.parent / "bundle"
        shutil.copytree(resolve(NETWORK), bundle)
        shutil.copy(path, bundle / "card.json")
        run.call("inspect", bundle)
        if case.number % VERIFY_SHARE == 0:
            run.call("verify", bundle)
        run.accepted = upscale(bundle, path.parent, run)
        return run

    def judge(self, path: Path, case: Case, run: Run) -> str | None:
        del run
        if any(json.loads(case.data)["model"].get(name, 1) != 1 for name in ("size_multiple", "min_size")):
            return None  # Pictures are mirrored to that: their last rows may differ.
        return differs(path.parent / "out" / "in.png", undamaged())


def upscale(model: str | Path, folder: Path, run: Run) -> bool:
    Image.fromarray(picture()).save(folder / "in.png")
    code, _ = run.call(
        "upscale", folder / "in.png", "-m", model, "-o", f"{folder / 'out'}/", "--fp32", "--strict", "--no-progress"
    )
    run.check_leftovers(folder / "out", [folder / "out" / "in.png"] if code == 0 else [])
    return code == 0


@cache
def undamaged() -> NDArray[np.int16]:
    """The pixels that the network of the box gives."""
    folder = Path("undamaged").absolute()
    folder.mkdir()
    upscale(NETWORK, folder, Run())
    return levels(folder / "out" / "in.png")


NEAR = 8
"""Levels of 8 bits on average."""


def picture() -> NDArray[np.uint8]:
    """(20,24,3), smooth with an edge."""
    rows, columns = np.mgrid[0:20, 0:24]
    return np.stack([rows * 8 + 40, columns * 7 + 30, np.where(columns > rows, 180, 60)], axis=-1).astype(np.uint8)


def levels(path: Path) -> NDArray[np.int16]:
    with Image.open(path) as written:
        return np.asarray(written.convert("RGB")).astype(np.int16)


def differs(path: Path, *wanted: NDArray[np.int16]) -> str:
    """What is wrong where the picture is none of those wanted, but for one step of 8 bits.

    Those may lack a border; then their network saw another one, and they are near.
    """
    if not path.exists():
        return "exit 0 and no result"
    got = levels(path)
    inner = [(inside(got, one.shape), one) for one in wanted]
    errors = [np.abs(part - one) for part, one in inner if part.shape == one.shape]
    if any(error.max() <= 1 or (error.size < got.size and error.mean() < NEAR) for error in errors):
        return ""
    return "wrong pixels" if errors else "wrong size"


def inside(got: NDArray[np.int16], shape: tuple[int, ...]) -> NDArray[np.int16]:
    """The middle of a picture of whole size, as large as `shape`; the picture itself where that is none of it."""
    height, width, _ = picture().shape
    scale, left = divmod(got.shape[0], height)
    if left or got.shape[1] != scale * width or shape[0] > got.shape[0] or shape[1] > got.shape[1]:
        return got
    top, side = (got.shape[0] - shape[0]) // 2, (got.shape[1] - shape[1]) // 2
    return got[top : top + shape[0], side : side + shape[1]]


def _change(random: Random, card: dict[str, Any]) -> str:
    """Change one value somewhere in the card, mostly to another of its type; where, and to what."""
    section = random.choice([name for name in SECTIONS if card.get(name)] or list(card))
    place: Any = card
    path: list[Any] = [section]
    while isinstance(inside := place[path[-1]], dict | list) and inside and (len(path) == 1 or random.random() < 0.9):
        place = inside
        path.append(random.choice(list(place) if isinstance(place, dict) else range(len(place))))
    name = ".".join(map(str, path))
    if random.random() < 0.1:
        del place[path[-1]]
        return f"{name} removed"
    value = place[path[-1]]
    kind = random.choice(list(ODD_VALUES)) if random.random() < 0.2 else type(value)
    near = (value + 1, value * 2, -value) if isinstance(value, int | float) else ()
    place[path[-1]] = random.choice((*ODD_VALUES[kind], *near))
    return f"{name} = {str(place[path[-1]])[:40]!r}"
