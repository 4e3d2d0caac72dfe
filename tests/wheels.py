"""Wheels built from the tree, and installed where nothing else of ours is."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("export", "training", "engines")
"""Folders of recipes and targets."""
BUILT_FROM = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE", "sr_deploy", *FOLDERS)
"""What the package is built from, files and folders at the top of the repository."""


def copy_source(folder: Path) -> Path:
    """A copy of the source tree, since a build leaves files in it."""
    for name in BUILT_FROM:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "weights"))
        else:
            folder.mkdir(exist_ok=True)
            shutil.copy(ROOT / name, folder)
    return folder


def build(kind: str, source: Path, folder: Path) -> Path:
    """The 'wheel', 'sdist' or 'editable' of a source tree, by setuptools itself, without a network."""
    code = f"import sys; from setuptools import build_meta; print(build_meta.build_{kind}(sys.argv[1]))"
    arguments = [sys.executable, "-c", code, folder]
    result = subprocess.run(arguments, cwd=source, check=True, capture_output=True, text=True)
    return folder / result.stdout.splitlines()[-1]


def install(wheel: Path, folder: Path) -> Path:
    """The folder of programs of a new environment with the wheel, and with what this one has installed but us."""
    venv.create(folder, symlinks=True)
    scheme = {"base": str(folder), "platbase": str(folder)}
    programs, packages = (Path(sysconfig.get_path(kind, "venv", vars=scheme)) for kind in ("scripts", "purelib"))
    here = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (packages / "dependencies.pth").write_text("\n".join(sorted(here)), encoding="utf-8")
    python = programs / Path(sys.executable).name
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--no-deps", "--no-index", "--ignore-installed", wheel], check=True, capture_output=True)
    return programs
