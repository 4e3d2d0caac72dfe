"""The commands of the README and the docs, and a folder with the files that they name."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from sr_deploy.bundle import PROBE_FILE, Bundle, sha256_of
from sr_deploy.card import GraphCard, ModelCard
from tests.graphs import image_graph, masked_bundle, save

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def console_lines() -> list[str]:
    """What is typed in the console blocks of all pages, without the prompt and the comment behind it."""
    lines = [line for page in PAGES for block in blocks(page, "console") for line in block.splitlines()]
    return [re.sub(r"\s+# .*", "", line[2:]) for line in lines if line.startswith("$ ")]


def plain_bundle(folder: Path, name: str) -> Bundle:
    """A bundle x4 of an `image_graph` with its probe; it stands in `folder`."""
    folder.mkdir(parents=True)
    graph = image_graph(scale=4, depth=1)
    path = save(graph, folder, "fp32.onnx")
    image = np.round(np.arange(3 * 12 * 16, dtype=np.float32).reshape(1, 3, 12, 16) / 575 * 255) / np.float32(255)
    (output,) = ReferenceEvaluator(graph).run(None, {"input": image})
    np.savez(folder / PROBE_FILE, **{"ramp.input": image, "ramp.output": output})
    card = ModelCard(name, "test", 4, 3, tiling="exact", halo=2, activation_bytes=100)
    bundle = Bundle(folder, card, {"fp32": GraphCard(path.name, "fp32", sha256_of(path), 20)})
    bundle.write_card()
    return bundle


def write_film(path: Path, frames: int = 1) -> None:
    with av.open(str(path), "w") as film:
        stream = film.add_stream("libx264", 24, width=32, height=32, pix_fmt="yuv420p")
        for _ in range(frames):
            film.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((32, 32, 3), 90, np.uint8))))
        film.mux(stream.encode())


def photo(height: int = 48, width: int = 64) -> NDArray[np.uint8]:
    return np.random.default_rng(2).integers(60, 200, (height, width, 3), dtype=np.uint8)


def furnish(folder: Path) -> None:
    """Put there what the pages name: bundles, pictures, a film, sets of test images; checkpoints hold nothing."""
    for name in ("rlfn", "models/rlfn", "models/bsrn"):
        plain_bundle(folder / name, Path(name).name)
    for name in ("rfdn_mga_x4", "models/rfdn_mga"):
        (folder / name).mkdir()
        mga = masked_bundle(folder / name, scale=4)
        replace(mga, card=replace(mga.card, name=Path(name).name)).write_card()
    (folder / "model.onnx").write_bytes((folder / "rlfn" / "fp32.onnx").read_bytes())
    for name in ("photos", "frames", "run", "engines", "built", "Set5/HR", "Set5/LR_bicubic/X4", "Set14/HR"):
        (folder / name).mkdir(parents=True)
    for name in ("photo.jpg", "photo.png", "a.png", "b.webp", "photos/c.png", "Set5/HR/baby.png", "Set14/HR/baboon.png"):
        cv2.imwrite(str(folder / name), photo())
    cv2.imwrite(str(folder / "Set5" / "LR_bicubic" / "X4" / "babyx4.png"), photo(12, 16))
    for number in (1, 2):
        cv2.imwrite(str(folder / "frames" / f"f_{number:04d}.png"), photo())
    write_film(folder / "film.mkv")
    for name in ("rlfn_ntire_x4.pth", "run/checkpoint.pth"):
        (folder / name).write_bytes(b"\x80\x02}.")
