"""The README and the docs do what they say."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from click.testing import CliRunner

import sr_deploy
from sr_deploy.bundle import Bundle, GraphCard, ModelCard, sha256_of
from sr_deploy.cli import COMMANDS, program
from tests.graphs import image_graph, save

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the bundle and the photos that the README names."""
    folder = tmp_path / "rlfn"
    folder.mkdir()
    path = save(image_graph(scale=4), folder, "fp32.onnx")
    graphs = {"fp32": GraphCard(path.name, "fp32", sha256_of(path), 20)}
    Bundle(folder, ModelCard("rlfn", "test", 4, 3, tiling="exact", halo=3, activation_bytes=100), graphs).write_card()
    (tmp_path / "photos").mkdir()
    photo = np.random.default_rng(2).integers(60, 200, (24, 30, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "photo.jpg"), photo)
    cv2.imwrite(str(tmp_path / "photos" / "b.png"), photo)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("number", [0, 1])
def test_the_lines_of_the_page_on_python_run(workplace: Path, number: int) -> None:
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    codes = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    assert len(codes) == 2
    exec(codes[number], {})
    photo, large = (cv2.imread(str(workplace / name)).shape for name in ("photo.jpg", "large.png"))
    assert large[:2] == tuple(side * (4, 2)[number] for side in photo[:2])


def test_the_page_on_python_has_what_is_public_and_nothing_else() -> None:
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    errors = {name for name in sr_deploy.__all__ if name.endswith("Error")}
    assert set(sr_deploy.__all__) - errors - {"__version__", "Metadata"} <= set(re.findall(r"\w+", page))
    assert set(re.findall(r"^\| `(\w+)\(", page, flags=re.MULTILINE)) <= set(sr_deploy.__all__)


@pytest.mark.usefixtures("workplace")
def test_the_python_lines_run() -> None:
    (code,) = blocks("python")
    assert len([line for line in code.splitlines() if line]) <= 5
    names: dict[str, object] = {}
    exec(code, names)
    large = names["large"]
    assert isinstance(large, np.ndarray)
    assert large.shape == (96, 120, 3)


def test_the_upscale_lines_run(workplace: Path) -> None:
    _write_film(workplace / "film.mkv")
    lines = [line for block in blocks("console") for line in block.splitlines() if "sr-deploy upscale" in line]
    for line in lines:
        result = CliRunner().invoke(program, shlex.split(line.removeprefix("$ sr-deploy "), comments=True))
        assert result.exit_code == 0, result.output
    assert {path.name for path in (workplace / "large").rglob("*.*")} == {"photo.jpg", "b.png"}
    with av.open(str(next(workplace.glob("film_*.mkv")))) as film:
        assert film.streams.video[0].height == 2160


def _write_film(path: Path) -> None:
    with av.open(str(path), "w") as film:
        stream = film.add_stream("libx264", 24, width=32, height=32, pix_fmt="yuv420p")
        for _ in range(2):
            film.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((32, 32, 3), 90, np.uint8))))
        film.mux(stream.encode())


def test_every_command_shown_exists() -> None:
    texts = [README, *(path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md"))]
    shown = {name for text in texts for name in re.findall(r"^\$ sr-deploy ([a-z-]+)", text, flags=re.MULTILINE)}
    assert shown
    assert shown <= set(COMMANDS)


@pytest.mark.parametrize("path", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (path.parent / target).exists(), target


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) < 150
