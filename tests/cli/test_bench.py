from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

Invoke = Callable[..., Result]


def test_every_backend_is_measured_bare_and_from_image_to_image(invoke: Invoke, bundle: Path) -> None:
    result = invoke("bench", bundle, "--size", "48x32", "--runs", "2", "--json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert (document["input"], document["scale"], document["runs"]) == ([48, 32], 2, 2)
    measured = [(row["backend"], row["precision"], row["what"]) for row in document["results"]]
    assert measured[:2] == [("openvino", "fp32", "engine"), ("openvino", "fp32", "upscaler")]
    assert ("onnxruntime", "fp32", "upscaler") in measured
    assert not any(precision == "fp16" for _, precision, _ in measured)
    for row in document["results"]:
        assert 0 < row["best_ms"] <= row["median_ms"]
        assert row["output_megapixels_per_second"] == pytest.approx(48 * 32 * 4 / 1e3 / row["median_ms"], rel=1e-5)


def test_one_backend_as_a_table(invoke: Invoke, bundle: Path) -> None:
    result = invoke("bench", bundle, "--size", "16x16", "--runs", "1", "--backend", "onnxruntime", "--threads", "1")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0].split() == [
        "backend",
        "precision",
        "what",
        "median",
        "ms",
        "best",
        "ms",
        "output",
        "MPix/s",
    ]
    assert "openvino" not in result.stdout


def test_wrong_usage(invoke: Invoke, bundle: Path) -> None:
    for size in ("16", "0x5", "axb"):
        result = invoke("bench", bundle, "--size", size)
        assert (result.exit_code, "WIDTHxHEIGHT" in result.stderr) == (2, True)
    assert invoke("bench", bundle, "--backend", "abacus").exit_code == 2
    assert invoke("bench", bundle, "--backend", "tensorrt").exit_code == 3
