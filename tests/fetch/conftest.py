"""A server of this machine, over https, and a file on it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import sr_deploy.export
from sr_deploy.bundle import Bundle
from sr_deploy.card import Source
from sr_deploy.fetch import https
from sr_deploy.models.recipe import Download
from tests.docs import plain_bundle
from tests.video.server import Served, certify_here, serving

Serve = Callable[..., Served]
PATH = "/weights.pth"


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's data folder of ours, which is not there yet."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path / "data" / "sr-deploy"


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The checkpoints that were exported; it takes no time."""
    calls: list[Path] = []

    def export(checkpoint: Path, output: Path, **_: Any) -> Bundle:
        calls.append(checkpoint)
        return make_bundle(output, checkpoint.read_bytes())

    monkeypatch.setattr(sr_deploy.export, "export_bundle", export)
    return calls


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate, and the file that has its key too."""
    return certify_here(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def serve(certificates: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Serve bytes over https, as tests want it; nobody waits before asking again."""
    certificate, both = certificates
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    monkeypatch.setattr(https, "WAITS", (0.0, 0.0))
    with ExitStack() as stack:
        yield lambda data, **how: stack.enter_context(serving(Served(data, path=PATH, certificate=both, **how)))


def file_of(served: Served, data: bytes | None = None, **changed: Any) -> Download:
    """What a recipe says of a file that is served."""
    data = served.data if data is None else data
    facts = {"url": served.url(PATH), "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    return Download(**{**facts, **changed})


def write_recipe(path: Path, weights: bytes, **changed: Any) -> Path:
    """The recipe `tiny` of these weights; `bundle` is the address of a ready one, with its bytes."""
    facts: dict[str, Any] = {
        "name": "tiny",
        "architecture": "ecbsr",
        "checkpoint": "weights.pth",
        "sha256": hashlib.sha256(weights).hexdigest(),
        "value_range": 1,
        "license": "MIT",
        "url": "https://example.org/tiny",
        "bytes": len(weights),
    }
    ready = changed.pop("bundle", None)
    lines = [f"{key} = {json.dumps(value)}\n" for key, value in {**facts, **changed}.items()]
    if ready is not None:
        url, archive = ready
        lines.append(f'[bundle]\nurl = "{url}"\nbytes = {len(archive)}\nsha256 = "{hashlib.sha256(archive).hexdigest()}"\n')
    path.write_text("".join(lines), encoding="utf-8")
    return path


def make_bundle(folder: Path, weights: bytes) -> Bundle:
    """A bundle x4 that says that it was made of these weights."""
    bundle = plain_bundle(folder, "tiny")
    source = Source("weights.pth", hashlib.sha256(weights).hexdigest(), "MIT")
    made = replace(bundle, card=replace(bundle.card, source=source))
    made.write_card()
    return made
