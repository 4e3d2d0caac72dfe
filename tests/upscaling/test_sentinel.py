from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from sr_deploy import Upscaler
from sr_deploy.card import GRAPH_METADATA_KEY, ModelCard
from sr_deploy.errors import UnhealthyOutputError
from sr_deploy.upscaling import sentinel
from tests.graphs import image_graph, save

BLACK_AND_WHITE = np.where(np.add.outer(np.arange(64), np.arange(64))[..., None] % 2, np.uint8(255), np.uint8(0)).repeat(3, 2)


def clamped(network: str | Path, image: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """What the network gives, whatever the sentinel thinks of it."""
    with monkeypatch.context() as patch, Upscaler(network, backend="openvino", precision="fp32") as upscale:
        patch.setattr(sentinel, "is_healthy", lambda *_: True)
        return upscale(image)


def test_what_overshoots_and_is_right_once_clamped_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dither of black and white: bicubic would make gray of it."""
    model = image_graph(scale=2, gain=8.0, noise=0.0)
    onnx.helper.set_model_props(model, {GRAPH_METADATA_KEY: ModelCard("net", "test", 2, 3).to_json()})
    path = save(model, tmp_path)
    judged: list[bool] = []
    is_true_to = sentinel._is_true_to
    monkeypatch.setattr(sentinel, "_is_true_to", lambda *pixels: [judged.append(is_true_to(*pixels)), judged[-1]][1])
    with Upscaler(path, backend="openvino", precision="fp32") as upscale:
        large = upscale(BLACK_AND_WHITE)
        assert (upscale.stats.recomputed, upscale.stats.replaced) == (0, 0)
    assert judged == [True]
    assert np.array_equal(large, BLACK_AND_WHITE.repeat(2, 0).repeat(2, 1))


def test_what_is_wrong_once_clamped_too_is_refused_or_bicubic(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        Upscaler("fast-x2", backend="openvino", precision="fp32") as upscale,
        pytest.raises(UnhealthyOutputError, match="the network diverges on this content"),
    ):
        upscale(BLACK_AND_WHITE)
    with Upscaler("fast-x2", backend="openvino", on_failure="bicubic") as upscale:
        large = upscale(BLACK_AND_WHITE)
        assert upscale.stats.replaced == 1
    nearest = BLACK_AND_WHITE.repeat(2, 0).repeat(2, 1).astype(int)
    assert np.abs(large - nearest).mean() < 70 < 90 < np.abs(clamped("fast-x2", BLACK_AND_WHITE, monkeypatch) - nearest).mean()
