"""Whether spandrel's big families can be exported: small networks of each with random weights, each in a process of its own.

python benchmarks/families.py [--seconds 1200] [FAMILY...]

What has to come out is a bundle whose certificate passed, or an error in one line.
"""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

_SWIN = {"depths": [2], "num_heads": [2], "window_size": 8, "upscale": 2}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "ESRGAN": ("ESRGAN.ESRGAN", {"num_filters": 32, "num_blocks": 2, "scale": 4}),
    "RealPLKSR": ("PLKSR.RealPLKSR", {"dim": 16, "n_blocks": 2, "upscaling_factor": 4}),
    "SwinIR": ("SwinIR.SwinIR", {**_SWIN, "embed_dim": 16, "upsampler": "pixelshuffledirect"}),
    "HAT": ("HAT.HAT", {**_SWIN, "embed_dim": 64, "squeeze_factor": 16}),
    "DAT": ("DAT.DAT", {"embed_dim": 64, "depth": [3], "num_heads": [2], "split_size": [8, 16], "upscale": 2}),
    "OmniSR": ("OmniSR.OmniSR", {"num_feat": 16, "res_num": 1, "up_scale": 2}),
}
"""By name, where spandrel has it and what it is made of."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("families", nargs="*", default=list(FAMILIES), metavar="FAMILY")
    parser.add_argument("--seconds", type=float, default=1200, help="for each, until it is stopped")
    parser.add_argument("--here", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.here:
        print(export(arguments.here))
        return
    for family in arguments.families:
        started = time.monotonic()
        print(f"{family}: {tried(family, arguments.seconds)}, {time.monotonic() - started:.0f} s", flush=True)


def tried(family: str, seconds: float) -> str:
    """What became of a family, in a line."""
    command = [sys.executable, __file__, "--here", family]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return "stopped, it takes too long"
    return done.stdout.strip() if done.returncode == 0 else f"its process died with {done.returncode}: {done.stderr[-500:]}"


def export(family: str) -> str:
    """Export it here. Says what the bundle is, or why there is none."""
    from sr_deploy import SrDeployError, export_bundle

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        checkpoint = Path(folder, f"{family}.pth")
        write_weights(family, checkpoint)
        try:
            bundle = export_bundle(checkpoint, Path(folder, "bundle"), anyway=True)
        except SrDeployError as exc:
            return f"{type(exc).__name__}: {exc}"
    card = bundle.card
    return f"works, x{card.scale}, sizes in multiples of {card.size_multiple}, from {card.min_size} on, tiles {card.tiling}"


def write_weights(family: str, path: Path) -> None:
    """Random ones, the same each time."""
    import torch

    from sr_deploy.export.spandrel import import_spandrel

    import_spandrel()
    place, settings = FAMILIES[family]
    package, _, name = place.partition(".")
    torch.manual_seed(0)
    network = getattr(importlib.import_module(f"spandrel.architectures.{package}"), name)(**settings)
    prefix = "model." if family == "ESRGAN" else ""
    torch.save({f"{prefix}{key}": tensor for key, tensor in network.state_dict().items()}, path)


if __name__ == "__main__":
    main()
