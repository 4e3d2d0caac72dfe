"""Families of spandrel that benchmarks/families.py exports: what is found out about them before that takes its time."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch
from families import FAMILIES, write_weights

from sr_deploy.errors import MissingDependencyError, UnknownArchitectureError
from sr_deploy.export import spandrel


@pytest.fixture(autouse=True)
def _with_spandrel() -> None:
    try:
        spandrel.import_spandrel()
    except MissingDependencyError:
        pytest.skip("spandrel is not installed")


EXPECTED = {
    "ESRGAN": ("ESRGAN", 4, 1),
    "RealPLKSR": ("PLKSR", 4, 1),
    "SwinIR": ("SwinIR", 2, 8),
    "HAT": ("HAT", 2, 8),
    "DAT": ("DAT", 2, 16),
    "OmniSR": ("OmniSR", 2, 8),
}
"""Name, scale, and what sizes are multiples of: the windows that attention takes."""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_family_is(tmp_path: Path, family: str) -> None:
    path = tmp_path / "net.pth"
    write_weights(family, path)
    found = spandrel.find(path, unknown=UnknownArchitectureError("none of ours"))
    assert (found.name, found.scale, found.size_multiple) == EXPECTED[family]


@pytest.mark.parametrize(
    ("place", "arguments", "side"),
    [
        ("SwinIR.__arch.SwinIR.window_partition", (8,), (8, 8)),
        ("HAT.__arch.HAT.window_partition", (8,), (8, 8)),
        ("DAT.__arch.DAT.img2windows", (4, 8), (4, 8)),
    ],
)
def test_windows_become_the_image_again(place: str, arguments: tuple[int, ...], side: tuple[int, int]) -> None:
    module, _, name = f"spandrel.architectures.{place}".rpartition(".")
    image = torch.rand(2, 16, 24, 5)
    taken = image.permute(0, 3, 1, 2) if name == "img2windows" else image
    windows = getattr(importlib.import_module(module), name)(taken, *arguments)
    torch.testing.assert_close(spandrel.image_of_windows(windows, *side, 16, 24), image, rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("size", [(16, 16), (24, 40)])
def test_masks_of_windows_are_theirs(size: tuple[int, int]) -> None:
    theirs = importlib.import_module("spandrel.architectures.SwinIR.__arch.SwinIR").SwinTransformerBlock
    block = theirs(dim=8, input_resolution=(64, 64), num_heads=2, window_size=8, shift_size=4)
    assert torch.equal(spandrel.mask_of_windows(block, size), block.calculate_mask(size))


@pytest.mark.filterwarnings("ignore")
def test_a_trace_that_takes_too_long_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "net.pth"
    write_weights("ESRGAN", path)
    monkeypatch.setattr(spandrel, "_SECONDS", 1)
    with pytest.raises(spandrel.ExportError, match=r"spandrel's ESRGAN cannot be traced: it takes far too long.*\.onnx file"):
        spandrel._trace_apart(path, spandrel.find(path, unknown=UnknownArchitectureError("none of ours")))
