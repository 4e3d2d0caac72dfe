"""Wheels built from the tree, and installed where nothing else of ours is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
FOLDERS = ("export", "training", "engines")
"""Folders of recipes and targets."""
BUILT_FROM = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE", "NOTICE", "sr_deploy", *FOLDERS)
"""What the package is built from, files and folders at the top of the repository."""
EVERYTHING = os.pathsep.join(sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}))
"""As PYTHONPATH of an installed program: what this environment has, torch too, but us."""


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


def base_packages() -> Iterator[Path]:
    """Files and folders of what the base install needs, where this environment has them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted, seen = list(project["dependencies"]), set[str]()
    while wanted:
        requirement = Requirement(wanted.pop())
        if requirement.name in seen or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        seen.add(requirement.name)
        package = distribution(requirement.name)
        wanted += package.requires or []
        tops = {file.parts[0] for file in package.files or []} - {"..", "__pycache__"}
        yield from (Path(str(package.locate_file(top))) for top in tops)


def install(wheel: Path, folder: Path) -> Path:
    """The folder of programs of a new environment with the wheel and what it needs, and nothing else: no torch, no pytest."""
    venv.create(folder, symlinks=True)
    scheme = {"base": str(folder), "platbase": str(folder)}
    programs, packages = (Path(sysconfig.get_path(kind, "venv", vars=scheme)) for kind in ("scripts", "purelib"))
    for path in base_packages():
        (packages / path.name).symlink_to(path)
    python = programs / Path(sys.executable).name
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--no-deps", "--no-index", "--ignore-installed", wheel], check=True, capture_output=True)
    return programs
