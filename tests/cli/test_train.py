"""`sr-deploy train` in a process of its own: results, signals, mistakes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
from click.testing import CliRunner

from sr_deploy.cli import program
from sr_deploy.export.probes import probe_picture

RECIPE = """
name = "tiny"
architecture = "ecbsr"
hr = ["photos"]
hold_out = 1
threads = 1
validate_every = {every}
save_every = 100000
network = {{ scale = 2, colors = 3, channels = 4, blocks = 0 }}
stages = [{{ steps = {steps}, batch = 1, crop = 8, learning_rate = 1e-3, losses = {{ l1 = 1.0 }} }}]
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    for number in range(2):
        cv2.imwrite(str(tmp_path / "photos" / f"{number}.png"), probe_picture()[40 * number : 40 * number + 32, :32])
    path = tmp_path / "é 'q' recipe.toml"
    path.write_text(RECIPE.format(every=5, steps=10), encoding="utf-8")
    return path


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-c", "from sr_deploy.cli import main; main()", "train", *map(str, arguments)]


def test_a_run(recipe: Path, tmp_path: Path) -> None:
    result = subprocess.run(command(recipe, "--json"), cwd=tmp_path, capture_output=True, text=True, check=True)
    found = json.loads(result.stdout)
    assert (tmp_path / found["checkpoint"]).is_file() and found["steps"] == 10
    assert "step 10/10" in result.stderr


@pytest.mark.skipif(os.name == "nt", reason="Windows sends no signals to one process")
@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.long)])
def test_ctrl_c_saves_and_says_how_to_go_on(recipe: Path, tmp_path: Path, number: signal.Signals) -> None:
    recipe.write_text(RECIPE.format(every=4, steps=1_000_000), encoding="utf-8")
    process = subprocess.Popen(command(recipe), cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    while not process.stderr.readline().startswith("step 4/"):
        assert process.poll() is None
    process.send_signal(number)
    rest = process.stderr.read()
    process.stderr.close()
    assert process.wait() == 130
    assert "the same command goes on from there" in rest and "Traceback" not in rest
    assert (tmp_path / "tiny" / "state.pth").is_file()


def test_a_mistake_is_one_line_and_exit_code_2(recipe: Path, tmp_path: Path) -> None:
    arguments = command(recipe, "--hr", tmp_path / "none")
    result = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr.splitlines() == [f"error: {tmp_path / 'none'}: no such folder; expected a folder of photos"]


def test_a_sheet_of_what_would_be_trained_on(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(program, ["train", str(recipe), "--show-degradations", "sheet.png"])
    assert (result.exit_code, result.stdout) == (0, "sheet.png\n"), result.stderr
    assert cv2.imread("sheet.png") is not None and not (tmp_path / "tiny").exists()
    result = CliRunner().invoke(program, ["train", str(recipe), "--show-degradations", "sheet.png", "--json"])
    assert set(json.loads(result.stdout)) == {"schema", "network", "sheet"}
