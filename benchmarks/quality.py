"""PSNR-Y of what the command line delivers, on a benchmark set, for every recipe, as a Markdown table.

python benchmarks/quality.py CHECKPOINTS IMAGES [--set Set5] [--precision fp32 --precision auto --precision fp16]

CHECKPOINTS holds the files that the recipes in export/ name; IMAGES holds Set5/HR and Set5/LR_bicubic/X4 and their like. Each
checkpoint is exported without any flag, each LR image goes through `sr-deploy upscale` as PNG to PNG, and PSNR is measured on
the written files: Y of BT.601, 8 bit, a border of `scale` pixels shaved, HR cropped to a multiple of the scale.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import cv2
import numpy as np

PROGRAM = str(Path(sys.executable).parent / "sr-deploy")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("checkpoints", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--set", dest="sets", action="append")
    parser.add_argument("--precision", dest="precisions", action="append")
    parser.add_argument("--only", default="", help="part of a recipe's name")
    options = parser.parse_args()
    sets, precisions = options.sets or ["Set5"], options.precisions or ["fp32", "auto", "fp16"]
    columns = [f"{name} {precision}" for name in sets for precision in precisions]
    print(f"| checkpoint | scale | {' | '.join(f'published {name}' for name in sets)} | {' | '.join(columns)} |")
    print(f"|{'---|' * (2 + len(sets) + len(columns))}")
    for path in sorted(Path("export").glob("*.toml")):
        recipe = tomllib.loads(path.read_text(encoding="utf-8"))
        checkpoint = options.checkpoints / recipe["checkpoint"]
        if options.only in recipe["name"] and checkpoint.is_file():
            print(row(checkpoint, recipe, options.images, sets, precisions), flush=True)


def row(checkpoint: Path, recipe: dict[str, Any], images: Path, sets: list[str], precisions: list[str]) -> str:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run([PROGRAM, "export", str(checkpoint), "-o", str(folder / "bundle")], check=True, capture_output=True)
        scale = int(json.loads((folder / "bundle" / "card.json").read_text())["model"]["scale"])
        expected = [recipe.get("expected", {}).get(name) for name in sets]
        cells = [f"{value:.3f}" if value is not None else "" for value in expected]
        cells += [
            f"{through_the_cli(folder, images / benchmark, scale, precision):.3f}"
            for benchmark in sets
            for precision in precisions
        ]
        return f"| {checkpoint.name} | x{scale} | {' | '.join(cells)} |"


def through_the_cli(folder: Path, images: Path, scale: int, precision: str) -> float:
    output = folder / f"{images.name}-{precision}"
    source = images / "LR_bicubic" / f"X{scale}"
    backend = ["--backend", "onnxruntime"] if precision == "fp16" else []
    command = [PROGRAM, "upscale", str(source), "-m", str(folder / "bundle"), "-o", str(output), "--precision", precision]
    subprocess.run([*command, *backend, "--no-progress"], check=True, capture_output=True)
    return float(np.mean([psnr_y(path, output, scale) for path in sorted((images / "HR").glob("*.png"))]))


def psnr_y(hr_path: Path, output: Path, scale: int) -> float:
    (sr_path,) = (path for path in output.rglob("*.png") if path.stem == f"{hr_path.stem}x{scale}")
    sr, hr = np.asarray(cv2.imread(str(sr_path))), np.asarray(cv2.imread(str(hr_path)))
    height, width = sr.shape[:2]
    error = (luma(hr[:height, :width]) - luma(sr))[scale:-scale, scale:-scale]
    return float(10 * np.log10(255**2 / np.mean(error**2)))


def luma(bgr: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.asarray(bgr.astype(np.float64) @ np.array([24.966, 128.553, 65.481]) / 255 + 16)


if __name__ == "__main__":
    main()
