"""Networks against the outputs of the published implementations, and against themselves in tiles."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sr_deploy.architectures import (
    REGISTRY,
    Architecture,
    Config,
    LoadedCheckpoint,
    Reading,
    load_checkpoint,
    reference,
    reparameterize,
)

GOLDEN = (
    *("rfdn_aim_x4", "rlfn_x4", "rlfn_x2", "rlfn_s_x4", "rlfn_ntire_x4", "reprfn_ntire_x4", "reprfn_train_x4"),
    *("bsrn_x4", "bsrn_x2", "bsrn_s_x4", "pan_x4", "pan_x2", "msrn_x2", "ecbsr_m4c16_x4", "ecbsr_m4c16_x2"),
    *("ecbsr_m4c32_x3", "ecbsr_m4c16_train_x2", "ecbsr_m4c8_train_x4_idt", "compact_animevideov3_x4", "compact_sudo_ultra_x2"),
    *("dipnet_x4", "reprlfn_x4", "reprlfn_train_x4", "efdn_x4", "efdn_x2", "efdn_train_x4", "efdn_train_x4_13idt"),
    *("efdn_train_x4_gv", "plainrfdn_neesr_x4", "imdn_x4", "fmen_x4", "safmnpp_light_x4", "safmnpp_light_x4_ema"),
    *("span_ch28_x4", "span_train_x4", "span_train_no_norm_x2", "spanf_x4", "espan_x4", "disp_x4", "spanv2_x4"),
    *("plain_m6c32_x4", "etds_m5c16_x4", "etds_train_m5c16_x4", "ecbsr_et_m4c16_x2", "abpn_m4c28_x4", "espcn_x3", "fsrcnn_x2"),
    *("rvsr_x4", "rvsr_train_x4", "rt4ksr_train_x2", "plainusr_s_x2", "plainusr_s_x4", "plainusr_u_x4", "plainusr_u_train_x4"),
    "plainusr_s_train_x2",
)
ASSUMED: dict[str, dict[str, Any]] = {
    "rfdn_aim_x4": {"inner_skips": True},
    "ecbsr_m4c16_train_x2": {"identity": False},
    "ecbsr_m4c8_train_x4_idt": {"identity": True},
    "pan_x2": {"scale": 2},
    "efdn_train_x4": {"branches": "plain"},
    "efdn_train_x4_13idt": {"branches": "expanded_identity"},
    "efdn_train_x4_gv": {"branches": "converted"},
    "span_ch28_x4": {"mean": "div2k", "img_range": 255.0},
    "span_train_x4": {"mean": "div2k", "img_range": 255.0},
    "espcn_x3": {"sigmoid": True},
    "fsrcnn_x2": {"scale": 2},
}
CLAMPED = {"efdn_x4", "efdn_x2", "efdn_train_x4", "efdn_train_x4_13idt", "efdn_train_x4_gv"}
"""Whose published forward clamps to [0, 1]; here the graph does."""

SECOND = {"ecbsr_m4c16_train_x2", "ecbsr_m4c8_train_x4_idt", "efdn_train_x4_13idt", "efdn_train_x4_gv"}
"""Random weights, or a reading that is not the published one."""


def _entries(folder: Path) -> dict[str, dict[str, Any]]:
    entries: dict[str, dict[str, Any]] = json.loads((folder / "golden.json").read_text(encoding="utf-8"))
    return entries


def _entry(shared: Path, name: str) -> tuple[dict[str, Any], Path]:
    """What is known of a golden output, and the folder that it lies in."""
    folder = next(folder for folder in (shared / "golden", shared / "next" / "golden") if name in _entries(folder))
    return _entries(folder)[name], folder


def _load(shared: Path, name: str) -> tuple[LoadedCheckpoint, Reading, Tensor, Tensor]:
    """The checkpoint, the reading that the golden output was made with, its input and output."""
    entry, folder = _entry(shared, name)
    path = shared / entry["where"] / entry["checkpoint"]
    loaded = load_checkpoint(path)
    if "wrapper" in entry:
        state = torch.load(path, weights_only=True, map_location="cpu")[entry["wrapper"]]
        loaded = dataclasses.replace(loaded, checkpoint=dataclasses.replace(loaded.checkpoint, state=state))
    wanted = {"value_range": float(entry["value_range"]), **ASSUMED.get(name, {})}
    reading = next(each for each in loaded.readings if each.assumes.items() <= wanted.items())
    with np.load(folder / f"{name}.npz") as arrays:
        return loaded, reading, torch.from_numpy(arrays["x"]), torch.from_numpy(arrays["y"])


def _assert_close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    error = (found - expected).abs()
    histogram = torch.histogram(error.float().flatten().cpu(), bins=8)
    assert error.max() <= tolerance, f"mean {error.mean():.3g}, max {error.max():.3g}, histogram {histogram}"


def test_every_golden_output_is_tested(shared: Path) -> None:
    assert {*GOLDEN, "rfdn_mga_x4"} >= set(_entries(shared / "golden"))


@pytest.mark.parametrize("name", GOLDEN)
def test_golden(shared: Path, name: str) -> None:
    loaded, reading, x, y = _load(shared, name)
    entry, _ = _entry(shared, name)
    assert (reading.config.scale, reading.config.colors) == (entry["scale"], entry["channels"])
    span = float(y.max() - y.min())
    network = loaded.network(reading)
    end = (lambda found: found.clamp(0, 1)) if name in CLAMPED else lambda found: found
    with torch.inference_mode():
        _assert_close(end(network(x)), y, 1e-4 * span)
        unit, expected = x / reading.value_range, y / reading.value_range
        _assert_close(end(reference(network, reading.value_range)(unit)), expected, 1e-4 * span / reading.value_range)
        folded = reparameterize(network, reading.value_range, dense_bsconv=True, merge_parallel=True).module
        _assert_close(end(folded(unit)), expected, 1e-4 * span / reading.value_range)


def test_the_published_reading_is_the_first(shared: Path) -> None:
    for name in GOLDEN:
        if name in SECOND:
            continue
        loaded, reading, _, _ = _load(shared, name)
        assert loaded.readings[0] == reading, name


def test_mga_is_recognized(shared: Path) -> None:
    loaded = load_checkpoint(shared / "golden" / "rfdn_mga_x4.pth")
    assert loaded.architecture.name == "rfdn_mga"
    assert [reading.assumes for reading in loaded.readings] == [{"value_range": 1.0}, {"value_range": 255.0}]
    assert loaded.readings[0].config == loaded.architecture.default


def test_shapes(built: tuple[Architecture[Any], Config]) -> None:
    architecture, config = built
    size, wide = architecture.min_size, architecture.min_size + 2 * architecture.size_multiple
    with torch.inference_mode():
        y = architecture.build(config).eval()(torch.rand(2, config.colors, size, wide))
    assert y.shape == (2, config.colors, config.scale * size, config.scale * wide)


def test_a_halo_makes_a_tile_exact(
    built: tuple[Architecture[Any], Config], randomize: Callable[[nn.Module], nn.Module]
) -> None:
    architecture, config = built
    if architecture.halo is None:
        pytest.skip("sees the whole image")
    network = randomize(architecture.build(config))
    halo, scale, multiple = architecture.halo(config), config.scale, architecture.size_multiple
    tile, away = 5 * multiple, 3 * multiple
    size, cut = 2 * halo + tile + 2 * away, slice((halo + away) * scale, (halo + away + tile) * scale)
    torch.manual_seed(0)
    x = torch.rand(1, config.colors, size, size, dtype=torch.float64)
    with torch.inference_mode():
        whole = network(x)[..., cut, cut]
        part = network(x[..., away:-away, away:-away])[..., halo * scale : -halo * scale, halo * scale : -halo * scale]
    _assert_close(part, whole, 1e-12 * max(1.0, float(whole.abs().max())))


@pytest.mark.parametrize("architecture", REGISTRY, ids=lambda entry: entry.name)
def test_configs_are_frozen_and_documented(architecture: Architecture[Any]) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        architecture.default.scale = 1
    assert architecture.title
    assert architecture.paper
