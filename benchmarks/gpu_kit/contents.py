"""What the project itself sends along beside its tree: bundles, and their checkpoints."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from blobs import Source, archive, digest

MASK_GUIDED = "rfdn_mga_x4"
BUNDLES = {
    "rlfn_ntire_x4": "checkpoints/rlfn_ntire_x4.pth",
    "reprfn_ntire_x4": "checkpoints/reprfn_ntire_x4.pth",
    "pan_x4": "checkpoints/PANx4_DF2K.pth",
    MASK_GUIDED: "golden/rfdn_mga_x4.pth",
}
FLAGS = {MASK_GUIDED: ["--value-range", "1", "--anyway"]}
LIFT = """import sys, torch
state = torch.load(sys.argv[1], map_location="cpu", weights_only=True)
for key in ("base.upsampler.0.bias", "refine.upsampler.0.bias"):
    state[key] += 0.5
torch.save(state, sys.argv[2])"""
"""Its weights are random and its pixels lie around 0, which the sentinel refuses: half of white is added to both parts."""

MAKERS = ("architectures", "export", "engines", "bundle.py")
"""What bundles are made by."""


def own_files(checkout: Path, data: Path, cache: Path) -> Source:
    """Bundles and their checkpoints, as one archive."""
    version = version_of(checkout, MAKERS)
    files: dict[str, Path | bytes] = {}
    for name, checkpoint in BUNDLES.items():
        path = _lifted(data / checkpoint, checkout, cache) if name == MASK_GUIDED else data / checkpoint
        folder = _bundle(name, path, checkout, cache, version)
        files |= {f"bundles/{name}/{one.name}": one for one in sorted(folder.iterdir()) if one.name != "report.html"}
        files[f"checkpoints/{name}.pth"] = path
    return archive("base", files, cache)


def version_of(checkout: Path, rooms: Sequence[str]) -> str:
    """A short hash of the code in these folders and files of sr_deploy/, committed or not."""
    found = hashlib.sha256()
    for room in rooms:
        path = checkout / "sr_deploy" / room
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            found.update(f"{file.relative_to(checkout).as_posix()} {digest(file)}\n".encode())
    return found.hexdigest()[:12]


def _lifted(path: Path, checkout: Path, cache: Path) -> Path:
    lifted = cache / f"{path.stem}-lifted-{digest(path)[:12]}.pth"
    if not lifted.exists():
        _python(["-c", LIFT, path, lifted], checkout)
    return lifted


def _bundle(name: str, path: Path, checkout: Path, cache: Path, version: str) -> Path:
    folder = cache / f"bundle-{name}-{digest(path)[:12]}-{version}"
    if not (folder / "card.json").exists():
        main: list[str | Path] = [
            "-c",
            "from sr_deploy.cli import main; main()",
            "export",
            path,
            "-o",
            folder,
            "--name",
            name,
            "--overwrite",
        ]
        _python([*main, *FLAGS.get(name, [])], checkout)
    return folder


def _python(arguments: list[str | Path], checkout: Path) -> None:
    command = [sys.executable, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout[-1500:]}{done.stderr[-1500:]}")
