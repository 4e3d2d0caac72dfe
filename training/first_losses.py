"""The losses that networks in the box begin with when they are trained from their recipes again.

python training/first_losses.py PHOTOS [NETWORK ...] [--keep]

Prints for each network, such as fast-x4, the mean loss of each 50 of its first 200 steps, as JSON; `--keep` writes them into
first_losses.json, which a test compares with.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from sr_deploy.errors import CancelledError
from sr_deploy.models import available
from sr_deploy.training import read_recipe, train

HERE = Path(__file__).parent
KEPT = HERE / "first_losses.json"
STEPS, PART = 200, 50
STARTS = {"fast_x3": "fast_x2", "fast_x4": "fast_x2", "quality_small_x2": "quality_small_x4"}
"""Training forms that a network begins with, where it has not the name of the network without `photo_`."""


def main() -> None:
    parser = argparse.ArgumentParser(description="The losses that networks in the box begin with.")
    parser.add_argument("photos", type=Path)
    parser.add_argument("networks", nargs="*")
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()
    names = options.networks or [model.folder.name for model in available() if model.recipe]
    found = {name: [round(loss, 6) for loss in first_losses(name.replace("-", "_"), options.photos)] for name in names}
    print(json.dumps(found, indent=1))
    if options.keep:
        known = json.loads(KEPT.read_text()) if KEPT.exists() else {}
        KEPT.write_text(json.dumps(dict(sorted({**known, **found}.items())), indent=1) + "\n")


def first_losses(name: str, photos: Path) -> Iterator[float]:
    """Means of the losses of 50 steps each."""
    start = STARTS.get(name, name.replace("photo_fast", "fast").replace("photo_x", "quality_small_x"))
    given = {} if start == name else {"start": str(HERE / "weights" / f"{start}.pth")}
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
