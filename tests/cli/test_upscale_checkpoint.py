"""The -m of a checkpoint: exported when it is first used, and told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from tests.fetch.conftest import exported

__all__ = ["exported"]

Invoke = Callable[..., Result]


@pytest.fixture(autouse=True)
def _checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "net.pth").write_bytes(b"weights")


def test_a_checkpoint_is_exported_once(invoke: Invoke, pictures: list[Path], exported: list[Path]) -> None:
    first, second = (invoke("upscale", pictures[0], "-m", "net.pth", "-o", f"out{number}/") for number in (1, 2))
    assert (first.exit_code, first.stdout, second.exit_code) == (0, "out1/a.png\n", 0)
    assert first.stderr.startswith("note: net.pth is exported first, once; later runs take it from ")
    assert "note:" not in second.stderr and exported == [Path("net.pth")]


@pytest.mark.usefixtures("exported")
def test_programs_are_told_in_their_way(invoke: Invoke, pictures: list[Path]) -> None:
    result = invoke("upscale", pictures[0], "-m", "net.pth", "-o", "out/", "--progress", "json")
    first, *_ = map(json.loads, result.stderr.splitlines())
    assert first["event"] == "note" and first["message"].startswith("net.pth is exported first")


def test_both_of_a_pair_may_be_checkpoints(invoke: Invoke, pictures: list[Path], exported: list[Path]) -> None:
    Path("base.pth").write_bytes(b"others")
    result = invoke("upscale", pictures[0], "--base", "base.pth", "--refine", "net.pth", "-o", "out/", "--no-progress")
    assert (result.exit_code, result.stdout) == (0, "out/a.png\n"), result.stderr
    assert exported == [Path("net.pth"), Path("base.pth")] and result.stderr.count("note:") == 2


def test_what_holds_no_weights_is_one_line(invoke: Invoke, pictures: list[Path]) -> None:
    Path("net.pth").write_bytes(b"<html>")
    result = invoke("upscale", pictures[0], "-m", "net.pth", "--no-progress")
    assert result.exit_code == 1 and result.stderr.splitlines()[-1].startswith("error: net.pth: ")
    assert not list(Path("cache").rglob("card.json"))
