"""What the project itself sends along: bundles, their checkpoints, and its kernels compiled ahead."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from blobs import Source, archive, digest
from wheels import WHEELS

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

COMPILE = """import sys
from pathlib import Path
from sr_deploy.engines.device import compile_kernels
for module in sys.argv[3:]:
    compile_kernels([sys.argv[2]], Path(sys.argv[1]), module=module)"""


def own_files(checkout: Path, data: Path, cache: Path, arch: int) -> Source:
    """Bundles, their checkpoints, and kernels unless the package has them, as one archive."""
    version = version_of(checkout, MAKERS)
    files: dict[str, Path | bytes] = {}
    for name, checkpoint in BUNDLES.items():
        path = _lifted(data / checkpoint, checkout, cache) if name == MASK_GUIDED else data / checkpoint
        folder = _bundle(name, path, checkout, cache, version)
        files |= {f"bundles/{name}/{one.name}": one for one in sorted(folder.iterdir()) if one.name != "report.html"}
        files[f"checkpoints/{name}.pth"] = path
    if not ships_kernels(checkout):
        files |= _kernels(checkout, cache, version_of(checkout, ("engines",)), arch)
    return archive("base", files, cache)


def version_of(checkout: Path, rooms: Sequence[str]) -> str:
    """A short hash of the code in these folders and files of sr_deploy/, committed or not."""
    found = hashlib.sha256()
    for room in rooms:
        path = checkout / "sr_deploy" / room
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            found.update(f"{file.relative_to(checkout).as_posix()} {digest(file)}\n".encode())
    return found.hexdigest()[:12]


def ships_kernels(checkout: Path) -> bool:
    """Whether the package has compiled kernels in a folder of its own; then none are compiled here."""
    return any((checkout / "sr_deploy" / "engines").rglob("*.cubin*"))


def kernel_modules(checkout: Path) -> list[str]:
    """Modules of sr_deploy.engines that hold kernels: those that import Warp at their top."""
    engines = sorted((checkout / "sr_deploy" / "engines").glob("*kernels.py"))
    return [path.stem for path in engines if "\nimport warp" in path.read_text(encoding="utf-8")]


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


def _kernels(checkout: Path, cache: Path, version: str, arch: int) -> dict[str, Path | bytes]:
    """As Warp's own cache has them."""
    folder = cache / f"kernels-{arch}-{version}"
    if not folder.exists():
        part = folder.with_name(f"{folder.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        _python(["-c", COMPILE, part, str(arch / 10), *kernel_modules(checkout)], checkout)
        part.replace(folder)
    (_, release) = WHEELS["warp"][0].split("==")
    return {f"warp-cache/{release}/{_module_of(one.name)}/{one.name}": one for one in sorted(folder.iterdir())}


def _module_of(file: str) -> str:
    return file.split(".sm")[0].removesuffix(".meta").removesuffix(".cu")


def _python(arguments: list[str | Path], checkout: Path) -> None:
    command = [sys.executable, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout[-1500:]}{done.stderr[-1500:]}")
