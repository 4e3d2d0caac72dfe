"""Addresses as inputs of commands."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import Result

from tests.video.clips import Clips, frames
from tests.video.server import Served, serving

Invoke = Callable[..., Result]


@pytest.fixture
def served(clips: Clips) -> Iterator[Served]:
    with serving(Served(clips["cfr_sound"].read_bytes(), path="/a/é film.mkv")) as served:
        yield served


def test_an_address_becomes_a_file(invoke: Invoke, bundle: Path, served: Served) -> None:
    url = served.url("/a/%C3%A9%20film.mkv?key=secret", "me:secret@")
    result = invoke("upscale", url, "-m", bundle, "-o", "large.mkv", "--preset", "ultrafast", "--json")
    assert result.exit_code == 0, result.stderr
    done = json.loads(result.stdout)["done"]
    assert [(one["input"], one["output"]) for one in done] == [(served.url("/a/%C3%A9%20film.mkv"), "large.mkv")]
    assert "secret" not in result.output
    assert len(frames(Path("large.mkv"))) == 60
    result = invoke("upscale", "-i", url, "-m", bundle, "-o", "out", "--preset", "ultrafast")
    assert (result.exit_code, result.stdout) == (0, "out/é film.mkv\n")
    assert Path("out/é film.mkv").read_bytes() == Path("large.mkv").read_bytes()
    assert "secret" not in result.stderr


def test_an_address_needs_an_output(invoke: Invoke, bundle: Path, served: Served) -> None:
    result = invoke("upscale", served.url("/a.mkv"), "-m", bundle)
    assert result.exit_code == 2
    assert re.search(r"an address or standard input has no name for an output beside it; give one with -o", result.stderr)


def test_an_address_that_is_not_there_is_an_error(invoke: Invoke, bundle: Path, served: Served) -> None:
    result = invoke("upscale", served.url("/gone.mkv", "me:secret@"), "-m", bundle, "-o", "large.mkv")
    assert result.exit_code == 1
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert errors == [
        f"error: {served.url('/gone.mkv')}: cannot be read (the server says 404 Not Found); check the address and the server"
    ]


def test_plan_segment_and_join_by_address(invoke: Invoke, bundle: Path, served: Served) -> None:
    url, fast = served.url("/a/é film.mkv"), ("-m", bundle, "--preset", "ultrafast")
    assert invoke("upscale", url, "-o", "whole.mkv", *fast).exit_code == 0
    planned = invoke("plan", url, "-o", "large.mkv", *fast, "--no-measure", "--json")
    assert planned.exit_code == 0, planned.output
    for command in ("segment", "join"):
        result = invoke(command, "large.mkv.part", "--source", served.url("/a/%C3%A9 film.mkv?v=2"))
        assert result.exit_code == 0, result.output
    assert Path("large.mkv").read_bytes() == Path("whole.mkv").read_bytes()
