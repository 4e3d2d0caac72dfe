from __future__ import annotations

from pathlib import Path
from typing import get_args

import cv2
import numpy as np
import onnx
import pytest

from sr_deploy.bundle import Bundle, GraphCard, Link, ModelCard, sha256_of
from sr_deploy.engines import Arithmetic, open_engine
from sr_deploy.engines.parity import compare, verify
from sr_deploy.errors import BundleError
from tests.graphs import image_graph, save

REFERENCE = np.random.default_rng(4).random((1, 3, 40, 48), dtype=np.float32)


def link(array: np.ndarray, precision: Arithmetic | None = "fp32") -> Link:
    return compare(REFERENCE, array, scale=2, source="a", target="b", probe="p", precision=precision)


def test_the_figures_are_those_of_an_independent_library() -> None:
    array = np.clip(REFERENCE + np.random.default_rng(5).normal(0, 0.01, REFERENCE.shape).astype(np.float32), 0, 1)
    measured = link(array)
    assert measured.psnr == pytest.approx(cv2.PSNR(REFERENCE.ravel(), array.ravel(), 1.0), abs=0.01)
    assert measured.max_lsb == pytest.approx(255 * np.abs(array - REFERENCE).max(), abs=1e-4)


def test_the_border_is_measured_apart() -> None:
    inside, outside = REFERENCE.copy(), REFERENCE.copy()
    inside[..., 20, 20] += 0.1
    outside[..., 0, 20] -= 0.1
    assert link(inside).border_max_lsb == 0
    assert link(outside).border_max_lsb > 0


def test_floors() -> None:
    assert link(REFERENCE).passed
    assert link(REFERENCE).psnr == float("inf")
    assert not link(REFERENCE * 0.99).passed
    assert link(REFERENCE * 0.999, "fp16").passed
    assert not link(REFERENCE * 0.99, "fp16").passed
    assert link(REFERENCE * 0.99, "bf16").passed
    assert link(REFERENCE * 0.5, None).passed


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_bad_pixel_fails_every_floor(bad: float) -> None:
    array = REFERENCE.copy()
    array[0, 0, 5, 5] = bad
    for precision in get_args(Arithmetic):
        assert link(array, precision).max_lsb == 255
    assert not link(array, "fp32").passed


def test_outputs_of_another_size_are_an_error() -> None:
    with pytest.raises(BundleError, match=r"\[1, 3, 40, 48\].*\[1, 3, 20, 48\]"):
        link(REFERENCE[:, :, ::2])


def bundle_with_probe(folder: Path, *, factor: float) -> Bundle:
    """A bundle whose probe says that the original gave `factor` times what the graph gives."""
    path = save(image_graph(), folder, "fp32.onnx")
    x = np.round(REFERENCE[..., :13, :17] * 255) / np.float32(255)
    with open_engine(onnx.load(path), backend="onnxruntime") as engine:
        y = engine.run({"input": x})["output"] * np.float32(factor)
    np.savez(folder / "probe.npz", **{"odd.input": x, "odd.output": y})
    graphs = {"fp32": GraphCard(path.name, "fp32", sha256_of(path), 20)}
    return Bundle(folder, ModelCard("net", "test", 2, 3), graphs)


def test_a_good_bundle_verifies_on_every_backend(tmp_path: Path) -> None:
    links = verify(bundle_with_probe(tmp_path, factor=1.0))
    assert {name.split()[0] for name in (entry.target for entry in links)} >= {"openvino", "onnxruntime"}
    assert all(entry.passed for entry in links)


def test_a_bundle_that_computes_something_else_does_not(tmp_path: Path) -> None:
    links = verify(bundle_with_probe(tmp_path, factor=0.9), backend="onnxruntime")
    assert links
    assert not any(entry.passed for entry in links)


def test_without_a_probe_there_is_nothing_to_verify(tmp_path: Path) -> None:
    bundle = bundle_with_probe(tmp_path, factor=1.0)
    (tmp_path / "probe.npz").unlink()
    with pytest.raises(BundleError, match="only a bundle made by `sr-deploy export` can verify itself"):
        verify(bundle)
