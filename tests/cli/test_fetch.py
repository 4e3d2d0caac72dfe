from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tqdm
from click.testing import Result

from sr_deploy.cli.fetch import ByteBar
from sr_deploy.models import fetched_folder
from tests.fetch.conftest import data, make_bundle, write_recipe

__all__ = ["data"]

Invoke = Callable[..., Result]
PROGRAM = [sys.executable, "-c", "from sr_deploy.cli import main; main()"]


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    return write_recipe(tmp_path / "tiny.toml", b"weights", license="none stated")


@pytest.mark.usefixtures("data")
def test_the_folder_on_stdout(invoke: Invoke, recipe: Path) -> None:
    made = make_bundle(fetched_folder("tiny"), b"weights").folder
    result = invoke("fetch", recipe)
    assert (result.exit_code, result.stdout, result.stderr) == (0, f"{made}\n", "")
    result = invoke("inspect", "tiny")
    assert result.exit_code == 0 and str(made) in result.stdout
    assert invoke("verify", "tiny", "--backend", "onnxruntime").exit_code == 0


@pytest.mark.usefixtures("data")
def test_errors_are_one_line(invoke: Invoke, recipe: Path) -> None:
    result = invoke("fetch", recipe)
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert "agree with --yes" in result.stderr
    result = invoke("fetch", recipe, "--yes")
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (1, "", 1)
    assert "has no address of its own" in result.stderr
    result = invoke("fetch", "rlfn_ntire_x5")
    assert result.exit_code == 2 and result.stderr.endswith("did you mean 'rlfn_ntire_x4'?\n")
    result = invoke("upscale", "photo.png", "-m", "rlfn_ntire_x4")
    assert result.exit_code == 2 and "`sr-deploy fetch rlfn_ntire_x4`" in result.stderr


def test_names_are_completed(tmp_path: Path) -> None:
    def completed(words: str) -> list[str]:
        asked = {"_SR_DEPLOY_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        environment = {**os.environ, **asked, "XDG_DATA_HOME": str(tmp_path)}
        result = subprocess.run(PROGRAM, capture_output=True, check=True, text=True, env=environment)
        return result.stdout.splitlines()

    assert completed("sr-deploy fetch rlfn_x") == ["plain,rlfn_x2", "plain,rlfn_x4", "file,rlfn_x"]
    make_bundle(tmp_path / "sr-deploy" / "models" / "rlfn_x2", b"")
    assert completed("sr-deploy upscale -m rlfn") == ["plain,rlfn_x2", "file,rlfn"]


def test_a_bar_shows_how_much_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []

    class Bar(tqdm.tqdm):  # type: ignore[misc]
        def __init__(self, **options: Any) -> None:
            super().__init__(**{**options, "disable": False})
            made.append(self)

    monkeypatch.setattr(tqdm, "tqdm", Bar)
    bar = ByteBar()
    bar.close()
    assert made == []
    for done in (10, 25, 100):
        bar(done, 100)
    assert (made[0].n, made[0].total, len(made)) == (100, 100, 1)
    bar.close()
