"""Put a trained network into the box: sr_deploy/models/NAME-xSCALE, and its training form into training/weights.

python training/box.py RUN HR [HR ...] [--license Apache-2.0] [--int8]

RUN is the folder that `sr-deploy train` left. The PSNR-Y in the card is measured on the folders of HR images; one named HR is
called after the folder that it lies in. The card has what cards.json says of the
network and who taught it, too, each with its license.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import tempfile
from pathlib import Path

from sr_deploy import Upscaler
from sr_deploy.bundle import REPORT_FILE
from sr_deploy.evaluation.evaluate import evaluate, find_pairs, mean_score
from sr_deploy.export import export_bundle
from sr_deploy.settings import load_toml
from sr_deploy.training import TrainingRecipe

ROOT = Path(__file__).parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description="Put a trained network into the box.")
    parser.add_argument("run", type=Path)
    parser.add_argument("hr", type=Path, nargs="+")
    parser.add_argument("--license", default="Apache-2.0")
    parser.add_argument("--int8", action="store_true", help="with INT8 graphs; a network in the box has less than 2 MB")
    options = parser.parse_args()
    recipe = load_toml(options.run / "recipe.toml", TrainingRecipe)
    bundle = ROOT / "sr_deploy" / "models" / recipe.name.replace("_", "-")
    make_bundle(options.run, recipe, bundle, options, {})
    measured = {name_of(folder): measure(bundle, folder, recipe.network["scale"]) for folder in options.hr}
    make_bundle(options.run, recipe, bundle, options, measured)
    (bundle / REPORT_FILE).unlink()  # half of all bytes, and what it shows is in the card
    for file in ("recipe.toml", "log.csv"):
        shutil.copy(options.run / file, bundle)
    shutil.copy(options.run / "training_form.pth", ROOT / "training" / "weights" / f"{recipe.name}.pth")
    print(bundle, measured)


def make_bundle(
    run: Path, recipe: TrainingRecipe, bundle: Path, options: argparse.Namespace, measured: dict[str, float]
) -> None:
    """The bundle of the trained checkpoint, with the PSNR that it has in its card."""
    digest = hashlib.sha256((run / "checkpoint.pth").read_bytes()).hexdigest()
    said = json.loads((ROOT / "training" / "cards.json").read_text(encoding="utf-8"))
    facts = {
        "name": recipe.name,
        "architecture": recipe.architecture,
        "checkpoint": "checkpoint.pth",
        "sha256": digest,
        "value_range": 1,
        "license": options.license,
        "url": f"trained with training/{recipe.name}.toml{taught_by(run)}",
        "purpose": said["purpose"][recipe.name.rpartition("_")[0]],
        "credits": [*said["starts"].get(recipe.name, []), *said["pictures"]],
    }
    lines = [f"{key} = {json.dumps(value)}" for key, value in facts.items()]
    lines += ["", "[expected]", *(f"{name} = {psnr}" for name, psnr in measured.items())]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{recipe.name}.toml"
        path.write_text("\n".join(lines) + "\n")
        int8 = 0.05 if options.int8 else None
        export_bundle(run / "checkpoint.pth", bundle, name=recipe.name, recipe=path, overwrite=True, int8=int8)


def taught_by(run: Path) -> str:
    """The teacher of a run with its license, as the end of a line; empty where there was none."""
    teacher = json.loads((run / "training.json").read_text(encoding="utf-8")).get("teacher")
    return f", taught by {teacher['title']} of {teacher['file']} ({teacher['license']})" if teacher else ""


def measure(bundle: Path, hr: Path, scale: int) -> float:
    """Mean PSNR-Y in fp32, LR made by bicubic."""
    with Upscaler(bundle, precision="fp32") as upscale:
        pairs = (files.read(scale) for files in find_pairs(hr, scale=scale))
        return round(mean_score(evaluate(upscale, pairs)).psnr_y, 3)


def name_of(folder: Path) -> str:
    return folder.parent.name if folder.name == "HR" else folder.name


if __name__ == "__main__":
    main()
