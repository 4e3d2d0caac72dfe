"""What masking is worth: -B, -D, -A and -M of a trained mask-guided network, with other choices of patches beside the mask's.

python benchmarks/mga.py BUNDLE WEIGHTS STAGE_1 HR [HR ...] [--rounds 3] [--plot FILE.png]

BUNDLE is the exported network, WEIGHTS the training form that it was exported from, STAGE_1 what training left of its first
stage, which is -D. For every folder of HR images, one Markdown table: -B is the base alone, -D base and refine network as one
plain network, -A refines every patch, -M a share of them. LR is made by bicubic. MACs are per LR pixel. In each round
everything runs in turn; time is the median over rounds of the mean over images.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import onnx
from cpu import machine, measure
from torch import Tensor, nn

from sr_deploy import Upscaler
from sr_deploy.architectures import load_checkpoint
from sr_deploy.architectures.mga import MaskGuided
from sr_deploy.engines import mask_guided
from sr_deploy.engines.mask_guided import Amount
from sr_deploy.evaluation.evaluate import Pair, evaluate, find_pairs, mean_score
from sr_deploy.evaluation.sweep import Point, draw_sweep
from sr_deploy.export.trace import trace
from sr_deploy.masked.masked_upscaler import MaskedUpscaler
from sr_deploy.pictures.image import Picture, write_image
from sr_deploy.upscaling.image_upscaler import ImageUpscaler

Array = np.ndarray[Any, np.dtype[Any]]
Choose = Callable[[Array, Amount], Array]

SHARES = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
COMPARED = (0.1, 0.2, 0.3, 0.5)
DRAWS = 8


class Part(nn.Module):
    """One function of a network as a module."""

    def __init__(self, network: MaskGuided, function: Callable[[MaskGuided, Tensor], Tensor]) -> None:
        super().__init__()
        self.network, self._function = network, function

    def forward(self, x: Tensor) -> Tensor:
        return self._function(self.network, x)


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare a mask-guided network with its parts.")
    for name in ("bundle", "weights", "stage_1"):
        parser.add_argument(name, type=Path)
    parser.add_argument("hr", type=Path, nargs="+")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    print(f"{machine()}, {options.rounds} rounds")
    with tempfile.TemporaryDirectory() as folder:
        base = export(options.weights, lambda network, x: network.base(x), Path(folder) / "base.onnx")
        plain = export(options.stage_1, MaskGuided.decomposed, Path(folder) / "decomposed.onnx")
        for hr in options.hr:
            points = compare(options.bundle, base, plain, hr, options.rounds)
            compare_choices(options.bundle, hr)
            if options.plot and hr == options.hr[0]:
                write_image(options.plot, Picture(draw_sweep(points, f"{options.bundle.name}: share of the patches refined")))


def export(checkpoint: Path, function: Callable[[MaskGuided, Tensor], Tensor], path: Path) -> Path:
    """One function of the network as an ONNX file."""
    loaded = load_checkpoint(checkpoint)
    network = loaded.network(loaded.readings[0])
    assert isinstance(network, MaskGuided)
    onnx.save(trace(Part(network, function), channels=3, size_multiple=4), path)
    return path


def compare(bundle: Path, base: Path, plain: Path, hr: Path, rounds: int) -> list[Point]:
    """Print PSNR, MACs and time of all forms; the points are those of -M."""
    pairs = [files.read(4) for files in find_pairs(hr, scale=4)]
    print(f"\n{hr}: {len(pairs)} images\n")
    print("| form | refined | PSNR-Y | SSIM-Y | K MACs | ms | of -A |\n|---|---|---|---|---|---|---|")
    upscalers: dict[str, tuple[Upscaler | MaskedUpscaler, float]] = {"-B": (Upscaler(base), 0.0), "-D": (Upscaler(plain), 1.0)}
    upscalers |= {f"-M {share:.0%}": (MaskedUpscaler(bundle, k=share), share) for share in SHARES}
    upscalers["-A"] = upscalers.pop("-M 100%")
    scores = {name: mean_score(evaluate(upscaler, pairs)) for name, (upscaler, _) in upscalers.items()}
    seconds = measure({name: partial(upscale_all, upscaler, pairs) for name, (upscaler, _) in upscalers.items()}, rounds)
    scores = {name: replace(scores[name], seconds=median(values) / len(pairs)) for name, values in seconds.items()}
    for name, (upscaler, share) in upscalers.items():
        score, masked = scores[name], upscaler.card.masked
        macs = upscaler.card.macs + (share * masked.macs if masked else 0)
        print(
            f"| {name} | {share:.0%} | {score.psnr_y:.3f} | {score.ssim_y:.4f} | {macs / 1e3:.0f} | {score.seconds * 1e3:.0f} "
            f"| {score.seconds / scores['-A'].seconds:.2f} |"
        )
        upscaler.close()
    return [Point(share, share, (), scores[name]) for name, (_, share) in upscalers.items() if name not in ("-B", "-D")]


def upscale_all(upscaler: ImageUpscaler, pairs: list[Pair]) -> None:
    for pair in pairs:
        upscaler(pair.lr)


def compare_choices(bundle: Path, hr: Path) -> None:
    """Print the PSNR of the same number of patches, chosen in three ways; at random it is the mean of several draws."""
    pairs = [files.read(4) for files in find_pairs(hr, scale=4)]
    draws: list[Choose] = [partial(any_patches, seed=seed) for seed in range(DRAWS)]
    ways: dict[str, list[Choose]] = {"highest": [mask_guided.select_patches], "random": draws, "lowest": [worst_patches]}
    print(f"\n| refined | {' | '.join(ways)} |\n|---|---|---|---|")
    for share in COMPARED:
        row = []
        for choices in ways.values():
            scores = []
            for choose in choices:
                with choosing(choose), MaskedUpscaler(bundle, k=share) as upscaler:
                    scores.append(mean_score(evaluate(upscaler, pairs)).psnr_y)
            row.append(f"{mean(scores):.3f}")
        print(f"| {share:.0%} | {' | '.join(row)} |")


def any_patches(scores: Array, amount: Amount, *, seed: int) -> Array:
    """As many patches at random, the same ones for images of one size."""
    return np.sort(np.random.default_rng(seed).permutation(scores.size)[: amount.of(scores.size)])


def worst_patches(scores: Array, amount: Amount) -> Array:
    """As many patches with the lowest scores."""
    return np.sort(np.argsort(scores.ravel(), kind="stable")[: amount.of(scores.size)])


@contextmanager
def choosing(choose: Choose) -> Iterator[None]:
    """Let mask-guided networks choose patches that way."""
    before = mask_guided.select_patches
    mask_guided.select_patches = choose  # type: ignore[assignment]
    try:
        yield
    finally:
        mask_guided.select_patches = before


if __name__ == "__main__":
    main()
