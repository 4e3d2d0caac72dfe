"""A checkpoint is exported once, whatever runs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import pytest

import sr_deploy.export
from sr_deploy import __version__
from sr_deploy.bundle import Bundle, sha256_of
from sr_deploy.errors import AmbiguousCheckpointError, CheckpointError
from sr_deploy.fetch.exported import export_once


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "sr-deploy" / "bundles" / __version__


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "net.pth"
    path.write_bytes(b"weights")
    return path


def test_once_by_content_and_name(cache: Path, checkpoint: Path, exported: list[Path]) -> None:
    told: list[str] = []
    folder = cache / sha256_of(checkpoint) / "net"
    assert export_once(checkpoint, told.append) == export_once(checkpoint, told.append) == folder
    assert Bundle.open(folder).card.scale == 4
    assert exported == [checkpoint] and told == [f"note: net.pth is exported first, once; later runs take it from {folder}"]
    moved = checkpoint.rename(checkpoint.with_name("other.pth"))
    assert export_once(moved, told.append) == folder.with_name("other")
    moved.write_bytes(b"others")
    assert export_once(moved, told.append).parent != folder.parent


@pytest.mark.usefixtures("cache")
def test_what_is_damaged_is_made_again(checkpoint: Path, exported: list[Path]) -> None:
    (export_once(checkpoint, print) / "fp32.onnx").write_bytes(b"")
    export_once(checkpoint, print)
    assert len(exported) == 2


@pytest.mark.usefixtures("cache")
def test_what_it_needs_to_be_told_is_told_to_export(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unclear(*_: Any, **__: Any) -> NoReturn:
        raise AmbiguousCheckpointError("net.pth: fits two functions. Say which: `--value-range 1|255`")

    monkeypatch.setattr(sr_deploy.export, "export_bundle", unclear)
    with pytest.raises(AmbiguousCheckpointError, match=r"1\|255`; `sr-deploy export \S+net\.pth` takes these options"):
        export_once(checkpoint, print)


def test_a_cache_that_cannot_be_written(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(checkpoint))
    with pytest.raises(CheckpointError, match="point XDG_CACHE_HOME to another folder"):
        export_once(checkpoint, print)
