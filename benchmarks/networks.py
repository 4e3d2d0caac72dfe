"""Speed of every published network beside its PSNR on Set5, as a Markdown table and a drawing.

python benchmarks/networks.py CHECKPOINTS BUNDLES [--size 480x270] [--rounds 5] [--precision fp32] [--draw docs/networks.svg]

CHECKPOINTS holds the files that the recipes in export/ name, in any folder; each is exported into BUNDLES, unless it is there.
Networks take turns, so that whatever else the machine does meets all of them; the table has the median of all rounds.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np

from sr_deploy import Upscaler
from sr_deploy.bundle import Bundle
from sr_deploy.card import PrecisionChoice
from sr_deploy.export import export_bundle
from sr_deploy.models.recipe import recipes
from sr_deploy.probe_picture import probe_picture

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 960, 520, 60, 44, 16
COLORS = {2: "#2a78d6", 3: "#1baf7a", 4: "#e87ba4"}


@dataclass(frozen=True)
class Row:
    """One network. psnr: of Set5, as published, in dB; milliseconds: for one image; kmacs: 1000 MACs per LR pixel."""

    name: str
    scale: int
    psnr: float
    milliseconds: float
    parameters: int
    kmacs: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("checkpoints", type=Path, nargs="+")
    parser.add_argument("bundles", type=Path)
    parser.add_argument("--size", default="480x270", help="of the LR image")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precision", default="fp32", choices=get_args(PrecisionChoice))
    parser.add_argument("--draw", type=Path)
    options = parser.parse_args()
    width, height = map(int, options.size.split("x"))
    bundles = exported(options.checkpoints, options.bundles)
    rows = measured(bundles, height, width, options.rounds, options.precision)
    print("| network | scale | Set5 dB | ms | parameters | 1000 MACs per LR pixel |\n|---|---|---|---|---|---|")
    for row in sorted(rows, key=lambda row: (row.scale, -row.psnr)):
        print(f"| {row.name} | x{row.scale} | {row.psnr:.3f} | {row.milliseconds:.0f} | {row.parameters:,} | {row.kmacs:.0f} |")
    if options.draw:
        options.draw.write_text(drawing(rows, options.size, options.precision), encoding="utf-8")


def exported(folders: list[Path], bundles: Path) -> dict[str, Bundle]:
    """A bundle for each recipe whose checkpoint is there."""
    found = {path.name: path for folder in folders for path in folder.rglob("*") if path.is_file()}
    result = {}
    for recipe in recipes():
        target = bundles / recipe.name
        if not target.exists() and recipe.checkpoint in found:
            export_bundle(found[recipe.checkpoint], target, recipe=recipe.name)
        if target.exists():
            result[recipe.name] = Bundle.open(target)
    return result


def measured(bundles: dict[str, Bundle], height: int, width: int, rounds: int, precision: PrecisionChoice) -> list[Row]:
    image = np.resize(probe_picture().swapaxes(0, 1), (width, 240, 3)).swapaxes(0, 1)
    image = np.ascontiguousarray(np.resize(image, (height, width, 3)))
    upscalers = {name: Upscaler(bundle.folder, precision=precision) for name, bundle in bundles.items()}
    times: dict[str, list[float]] = {name: [] for name in upscalers}
    for turn in range(rounds + 1):
        for name, upscale in upscalers.items():
            begin = time.perf_counter()
            upscale(image)
            if turn:
                times[name].append(time.perf_counter() - begin)
    for upscale in upscalers.values():
        upscale.close()
    rows = []
    for name, bundle in bundles.items():
        card = bundle.card
        assert card.source is not None
        psnr, middle = card.source.expected.get("Set5"), statistics.median(times[name])
        if psnr is not None:
            rows.append(Row(name, card.scale, psnr, 1000 * middle, card.parameters, card.macs / 1000))
    return rows


class Box(NamedTuple):
    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: Box) -> bool:
        return self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom


class Place(NamedTuple):
    """Of a label beside its dot."""

    across: float
    down: float
    anchor: str


NEAR = 20
"""Pixels up to which a label needs no line to its dot."""

PLACES = [
    Place(side * 9, 4 + step * 13, "start" if side > 0 else "end")
    for step in (0, -1, 1, -2, 2, -3, 3, 4, 5, 6, 7, 8)
    for side in (1, -1)
]


def free_place(name: str, across: float, down: float, taken: list[Box]) -> tuple[Place, Box]:
    """The nearest place where a label covers nothing, else the first."""
    length = 6.6 * len(name)
    boxes = []
    for place in PLACES:
        left = across + place.across - (length if place.anchor == "end" else 0)
        boxes.append(Box(left, down + place.down - 11, left + length, down + place.down + 2))
        if LEFT < left < WIDTH - length and not any(boxes[-1].meets(other) for other in taken):
            return place, boxes[-1]
    return PLACES[0], boxes[0]


def drawing(rows: list[Row], size: str, precision: str) -> str:
    """PSNR of the networks of x4 against the logarithm of their time; those that none beats in both are joined."""
    rows = sorted((row for row in rows if row.scale == 4 and row.psnr > 30), key=lambda row: row.milliseconds)
    slow, fast = math.log10(rows[-1].milliseconds) + 0.12, math.log10(rows[0].milliseconds) - 0.05
    low, high = math.floor(min(row.psnr for row in rows) * 2) / 2, max(row.psnr for row in rows) + 0.15

    def x(milliseconds: float) -> float:
        return LEFT + (math.log10(milliseconds) - fast) / (slow - fast) * (WIDTH - LEFT - 20)

    def y(psnr: float) -> float:
        return TOP + (high - psnr) / (high - low) * (HEIGHT - TOP - BOTTOM)

    parts = []
    for step in range(round((high - low) * 2) + 1):
        psnr = low + step / 2
        if psnr <= high:
            parts.append(f'<line x1="{LEFT}" x2="{WIDTH}" y1="{y(psnr):.1f}" y2="{y(psnr):.1f}" stroke="#8884"/>')
            parts.append(f'<text x="{LEFT - 8}" y="{y(psnr) + 4:.1f}" text-anchor="end">{psnr:.1f}</text>')
    for milliseconds in (5, 10, 20, 50, 100, 200, 500, 1000, 2000):
        if fast <= math.log10(milliseconds) <= slow:
            place = x(milliseconds)
            parts.append(f'<line x1="{place:.1f}" x2="{place:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" stroke="#8884"/>')
            parts.append(f'<text x="{place:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{milliseconds}</text>')
    front = [row for number, row in enumerate(rows) if all(other.psnr < row.psnr for other in rows[:number])]
    line = " ".join(f"{x(row.milliseconds):.1f},{y(row.psnr):.1f}" for row in front)
    parts.append(f'<polyline points="{line}" fill="none" stroke="{COLORS[4]}" stroke-width="1.5"/>')
    dots = [(x(row.milliseconds), y(row.psnr)) for row in rows]
    taken = [Box(across - 5, down - 5, across + 5, down + 5) for across, down in dots]
    for row, (across, down) in zip(rows, dots, strict=True):
        parts.append(f'<circle cx="{across:.1f}" cy="{down:.1f}" r="4" fill="{COLORS[4] if row in front else COLORS[2]}"/>')
        name = row.name.removesuffix("_x4")
        label, box = free_place(name, across, down, taken)
        taken.append(box)
        if abs(label.down) > NEAR:
            end = across + label.across / 2
            parts.append(
                f'<line x1="{across:.1f}" y1="{down:.1f}" x2="{end:.1f}" y2="{down + label.down - 4:.1f}" stroke="#8888"/>'
            )
        left = across + label.across
        parts.append(f'<text x="{left:.1f}" y="{down + label.down:.1f}" text-anchor="{label.anchor}">{escape(name)}</text>')
    middle = (LEFT + WIDTH) / 2
    parts.append(
        f'<text x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">ms for an image of {size} made x4, {precision}</text>'
    )
    parts.append(f'<text x="{LEFT - 8}" y="{TOP - 4}" text-anchor="end">dB</text>')
    style = 'font-family="sans-serif" font-size="12" fill="#777"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" {style}>{"".join(parts)}</svg>\n'


if __name__ == "__main__":
    main()
