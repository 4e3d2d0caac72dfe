"""The losses that networks in the box begin with when they are trained from their recipes again.

python training/first_losses.py PHOTOS [NETWORK ...] [--published FOLDER]... [--keep]

Prints for each network, such as fast-x4, the mean loss of each 50 of its first 200 steps, as JSON; `--keep` writes them into
first_losses.json, which a test compares with. `--published`: folders of the published checkpoints that some begin with.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from sr_deploy.errors import CancelledError
from sr_deploy.models import available
from sr_deploy.training import read_recipe, train

HERE = Path(__file__).parent
KEPT = HERE / "first_losses.json"
STEPS, PART = 200, 50
STARTS = {
    "fast_x3": "fast_x2",
    "photo_x2": "quality_small_x2_first",
    "photo_x4": "quality_small_x4_first",
    "photo_fast_x2": "fast_x2_first",
    "photo_fast_x4": "fast_x4_first",
}
"""Training forms that networks begin with."""

PUBLISHED = {
    "fast_x2": "ECBSR_M4C16_x2.pth",
    "fast_x4": "ECBSR_M4C16_x4.pth",
    "quality_small_x2": "PlainUSRS_Rep_x2.pth",
    "quality_small_x4": "team18_DISP.pth",
}
"""Published checkpoints that networks begin with, and that teach them."""


def main() -> None:
    parser = argparse.ArgumentParser(description="The losses that networks in the box begin with.")
    parser.add_argument("photos", type=Path)
    parser.add_argument("networks", nargs="*")
    parser.add_argument("--published", type=Path, action="append", default=[])
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()
    names = options.networks or [model.folder.name for model in available() if model.recipe]
    found = {}
    for name in names:
        losses = first_losses(name.replace("-", "_"), options.photos, options.published)
        found[name] = [round(loss, 6) for loss in losses]
    print(json.dumps(found, indent=1))
    if options.keep:
        known = json.loads(KEPT.read_text()) if KEPT.exists() else {}
        KEPT.write_text(json.dumps(dict(sorted({**known, **found}.items())), indent=1) + "\n")


def first_losses(name: str, photos: Path, published: Sequence[Path]) -> Iterator[float]:
    """Means of the losses of 50 steps each."""
    if name in PUBLISHED:
        path = next(str(folder / PUBLISHED[name]) for folder in published if (folder / PUBLISHED[name]).is_file())
        given = {"start": path, "teacher": path}
    else:
        given = {"start": str(HERE / "weights" / f"{STARTS[name]}.pth")}
    recipe = read_recipe(HERE / f"{name}.toml", hr=(str(photos),), threads=1, device="cpu", **given)
    steps = iter(range(STEPS - 1))
    with tempfile.TemporaryDirectory() as folder:
        try:
            train(recipe, Path(folder) / "run", stopped=lambda: next(steps, None) is None)
        except CancelledError:
            losses = torch.load(Path(folder) / "run" / "state.pth", weights_only=True)["losses"]
    assert len(losses) == STEPS
    return (statistics.fmean(losses[first : first + PART]) for first in range(0, STEPS, PART))


if __name__ == "__main__":
    main()
