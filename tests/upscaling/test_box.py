"""The networks in the box hold on odd files and on drawn graphics: nothing that they make has to be computed again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from sr_deploy import Upscaler
from sr_deploy.errors import ImageError
from sr_deploy.models import available
from sr_deploy.pictures.image import READABLE_SUFFIXES, Picture, read_image
from sr_deploy.training.generated import CONTENT_KINDS, generate

QUICK = "photo-fast-x4"
REFUSED = {("fast-x2", "1_trns.png"), ("fast-x2", "7x13.png"), ("fast-x3", "1_trns.png")}
"""Single pixels of black and white by chance: there the small networks overshoot, and are worse than bicubic."""


def graphics(shared: Path) -> Iterator[tuple[str, Picture]]:
    odd = [path for path in sorted((shared / "images" / "odd").rglob("*")) if path.suffix.lower() in READABLE_SUFFIXES]
    for path in (*odd, shared / "faults" / "sentinel_two_colours.png"):
        with contextlib.suppress(ImageError):
            yield path.name, read_image(path)
    for kind in CONTENT_KINDS:
        for number in range(10):
            yield f"{kind} {number}", Picture(generate(kind, 96, np.random.default_rng((7, number))))


@pytest.mark.parametrize(
    "name", [pytest.param(one.folder.name, marks=[pytest.mark.long] * (one.folder.name != QUICK)) for one in available()]
)
def test_no_tile_is_refused(shared: Path, name: str) -> None:
    refused = set()
    with Upscaler(name, on_failure="bicubic") as upscale:
        for file, picture in graphics(shared):
            before = upscale.stats.recomputed
            upscale.upscale_picture(picture)
            if upscale.stats.recomputed > before:
                refused.add((name, file))
    assert refused == {found for found in REFUSED if found[0] == name}
