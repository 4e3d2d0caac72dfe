"""The README and the docs do what they say."""

from __future__ import annotations

import ast
import importlib
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import cv2
import numpy as np
import pytest

import sr_deploy
from sr_deploy.cli import COMMANDS
from tests.docs import PAGES, blocks, photo, plain_bundle, write_film

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the bundle and the photo that the pages name."""
    plain_bundle(tmp_path / "rlfn", "rlfn")
    cv2.imwrite(str(tmp_path / "photo.jpg"), photo(24, 30))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("number", [0, 1])
def test_the_lines_of_the_page_on_python_run(workplace: Path, number: int) -> None:
    codes = blocks(ROOT / "docs" / "python.md", "python")
    assert len(codes) == 2
    exec(codes[number], {})
    small, large = (cv2.imread(str(workplace / name)).shape for name in ("photo.jpg", "large.png"))
    assert large[:2] == tuple(side * (4, 2)[number] for side in small[:2])


def test_the_page_on_python_has_what_is_public_and_nothing_else() -> None:
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    errors = {name for name in sr_deploy.__all__ if name.endswith("Error")}
    assert set(sr_deploy.__all__) - errors - {"__version__", "Metadata"} <= set(re.findall(r"\w+", page))
    assert set(re.findall(r"^\| `(\w+)\(", page, flags=re.MULTILINE)) <= set(sr_deploy.__all__)


@pytest.mark.usefixtures("workplace")
def test_the_python_lines_run() -> None:
    (code,) = blocks(ROOT / "README.md", "python")
    assert len([line for line in code.splitlines() if line]) <= 5
    names: dict[str, object] = {}
    exec(code, names)
    large = names["large"]
    assert isinstance(large, np.ndarray)
    assert large.shape == (96, 120, 3)


@pytest.mark.parametrize("number", [0, 1])
def test_the_lines_of_the_page_on_video_run(workplace: Path, number: int) -> None:
    write_film(workplace / "film.mkv")
    exec(blocks(ROOT / "docs" / "video.md", "python")[number], {})
    assert (workplace / "film_x4.mkv").exists() == (number == 0)


def test_python_lines_import_what_there_is() -> None:
    """On all pages, also where a GPU would be needed to run them."""
    codes = [code for page in PAGES if page.name != "api.md" for code in blocks(page, "python")]
    imports = [node for code in codes for node in ast.walk(ast.parse(code)) if isinstance(node, ast.ImportFrom)]
    ours = [
        (node.module, name.name)
        for node in imports
        if node.module and node.module.startswith("sr_deploy")
        for name in node.names
    ]
    assert len(ours) > 10
    assert [name for module, name in ours if not hasattr(importlib.import_module(module), name)] == []


def test_extras_and_files_that_pages_name_are_there() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    known = {name.replace("_", "-") for name in extras}
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert set(",".join(re.findall(r"(?:sr-deploy|\.)\[([a-z,-]+)\]", text)).split(",")) <= known
    named = set(re.findall(r"`((?:benchmarks|tests|sr_deploy|training|engines|export)/[\w/.]*)`", text))
    assert len(named) > 20 and {name for name in named if "NAME" not in name and not (ROOT / name).exists()} == set()


def test_every_command_shown_exists() -> None:
    shown = {name for page in PAGES for name in re.findall(r"^\$ sr-deploy ([a-z-]+)", page.read_text("utf-8"), re.MULTILINE)}
    assert shown
    assert shown <= set(COMMANDS)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (path.parent / target).exists(), target


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) < 150


def test_the_figures_of_networks_are_those_that_were_measured() -> None:
    """docs/quality.md is what benchmarks/quality.py printed; its figure of ECBSR is measured again by a test of `evaluate`."""
    rows = [line.split("|") for line in README.splitlines() if re.match(r"\| \w.*\| (exact|approximate) \|$", line)]
    claimed = [figure for row in rows for figure in re.findall(r"\d\d\.\d{3}", row[4])]
    measured = re.findall(r"\| x\d \| [\d. ]+ \| (\d\d\.\d{3}) ", (ROOT / "docs" / "quality.md").read_text(encoding="utf-8"))
    assert len(claimed) > 10
    assert set(claimed) - set(measured) == {"28.233"}, "Compact, measured apart"


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
def test_make_demo_upscales_and_draws(tmp_path: Path) -> None:
    """In this environment, which is not set up anew."""
    there = [option for name in ("python", ".run") for option in ("-o", f"{sys.prefix}/{'bin/' * (name == 'python')}{name}")]
    made = ["make", "demo", f"VENV={sys.prefix}", f"DEMO={tmp_path}", *there]
    done = subprocess.run(made, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "lost much to JPEG, and photo-fast-x4 restores that" in done.stdout + done.stderr
    small = cv2.imread(str(ROOT / "docs" / "demo.jpg")).shape
    large = cv2.imread(str(tmp_path / "images" / "demo.jpg")).shape
    assert large[0] // small[0] == large[1] // small[1] > 1
    assert cv2.imread(str(tmp_path / "before_after.png")).size > 0


def test_every_promise_has_its_tests() -> None:
    page = (ROOT / "docs" / "promises.md").read_text(encoding="utf-8")
    promises = re.findall(r"^- \*\*(.+?)\*\*", README.split("## Install")[0], re.MULTILINE)
    assert len(promises) == 5
    assert promises == re.findall(r"^\| (\w[^|]*?) \| (?!part)[^|]+\|", page, re.MULTILINE)
    rows = [line for line in page.splitlines() if line.startswith("| ") and "---" not in line][1:]
    for row in rows:
        named = re.findall(r"`([\w/]+\.py)::(\w+)`", row)
        assert named, row
        for path, name in named:
            assert f"def {name}(" in (ROOT / "tests" / path).read_text(encoding="utf-8"), f"{path}::{name}"
