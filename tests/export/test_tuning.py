"""Fine-tuning of INT8: torch's function of a graph against ONNX Runtime's, and what training makes of a bad start."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from onnx import ModelProto, helper

import sr_deploy.export.int8 as int8
from sr_deploy.architectures import REGISTRY
from sr_deploy.arrays import Array
from sr_deploy.card import ModelCard
from sr_deploy.cli import program
from sr_deploy.errors import ExportError
from sr_deploy.export.certify import run_graph
from sr_deploy.export.int8 import quantize
from sr_deploy.export.int8.calibration import moments_of, ranges_of, weights_of
from sr_deploy.export.int8.graph import to_int8
from sr_deploy.export.int8.pictures import calibration_inputs, tuning_batches
from sr_deploy.export.int8.rounding import quantize_weights
from sr_deploy.export.int8.speed import STORED
from sr_deploy.export.int8.torch_graph import TorchGraph
from sr_deploy.export.int8.tuning import tune
from sr_deploy.export.trace import trace
from sr_deploy.models import resolve
from sr_deploy.probe_picture import as_input, probe_picture

OTHERS = [entry.name for entry in REGISTRY if not entry.mask_guided and entry.name not in ("fsrcnn", "safmnpp_light")]


def agree(model: ModelProto) -> None:
    channels = model.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    image = as_input(probe_picture()[40:88, 20:84], channels)
    with torch.no_grad():
        found = TorchGraph(model)(torch.from_numpy(image)).numpy()
    np.testing.assert_allclose(found, run_graph(model, {"picture": image})["picture"], atol=1e-4)


@pytest.mark.parametrize("name", ["fast-x3", "quality-small-x2"])
def test_torch_computes_what_onnx_runtime_does(name: str) -> None:
    agree(onnx.load(resolve(name) / "fp32.onnx"))


@pytest.mark.long
@pytest.mark.parametrize("name", OTHERS)
def test_torch_computes_what_onnx_runtime_does_of_every_family(name: str) -> None:
    entry = next(entry for entry in REGISTRY if entry.name == name)
    torch.manual_seed(0)
    agree(trace(entry.build(entry.default).eval(), channels=getattr(entry.default, "colors", 3)))


def test_what_torch_does_not_know_is_told_at_once(fast: ModelProto) -> None:
    odd = ModelProto()
    odd.CopyFrom(fast)
    odd.graph.node.append(helper.make_node("Erf", ["x"], ["y"]))
    card = ModelCard("odd", "odd", 4, 3)
    with pytest.raises(ExportError, match="a graph with Erf cannot be tuned; export it without --tune"):
        quantize(odd, card, loss=0.1, speed=STORED, seconds=1)


@pytest.fixture(scope="module")
def fast() -> ModelProto:
    return onnx.load(resolve("fast-x4") / "fp32.onnx")


@pytest.mark.parametrize("symmetric", [False, pytest.param(True, marks=pytest.mark.long)])
def test_a_bad_start_is_mended(fast: ModelProto, symmetric: bool) -> None:
    """Steps that are too long and biases that are off: training comes near to what the fp32 graph makes."""
    card = ModelCard("fast", "ecbsr", 4, 3)
    inputs = calibration_inputs(card, None)[:4]
    convs = [node for node in fast.graph.node if node.op_type == "Conv"]
    quantizers = {
        name: seen.quantizer(symmetric=symmetric)
        for name, seen in ranges_of(fast, sorted({conv.input[0] for conv in convs}), inputs).items()
    }
    moments = moments_of(fast, convs, quantizers, inputs)
    weights = {}
    for conv in convs:
        good = quantize_weights(*weights_of(fast, conv), moments[conv.name])
        weights[conv.name] = dataclasses.replace(good, bias=good.bias + 0.03)

    def error(graph: ModelProto) -> float:
        exact, found = (run_graph(one, {"p": inputs[0]})["p"] for one in (fast, graph))
        return float(np.mean((found - exact) ** 2))

    found = tune(fast, weights, quantizers, tuning_batches(card, None), seconds=4)
    assert error(to_int8(fast, found.weights, found.quantizers)) < 0.5 * error(to_int8(fast, weights, quantizers))
    assert all(conv.codes.dtype == np.int8 and np.abs(conv.codes).max() <= 63 for conv in found.weights.values())
    assert {found.quantizers[name].zero_point for name in quantizers} == {one.zero_point for one in quantizers.values()}


@pytest.mark.long
def test_only_what_is_better_is_kept(fast: ModelProto, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoiled(self: int8._QuantizedConvs, *_: object) -> int8._QuantizedConvs:
        off = {name: dataclasses.replace(one, bias=one.bias + 1) for name, one in self.weights.items()}
        return dataclasses.replace(self, weights=off)

    card = ModelCard("fast", "ecbsr", 4, 3)
    usual = quantize(fast, card, loss=0.1, speed=STORED)
    monkeypatch.setattr(int8._QuantizedConvs, "tuned", spoiled)
    made = quantize(fast, card, loss=0.1, speed=STORED, seconds=1)
    assert not made.tuned and made.chosen == usual.chosen and made.loss == usual.loss
    monkeypatch.setattr(int8._QuantizedConvs, "tuned", lambda self, *_: dataclasses.replace(self, model=fast))
    monkeypatch.setattr(int8, "luma_error", lambda *_: 0.0)
    assert not quantize(fast, card, loss=0.1, speed=STORED, seconds=1).tuned  # nothing is left to gain


def test_pictures_of_ones_own_are_what_is_trained_on() -> None:
    gray = [np.full((100, 90, 3), 51, np.uint8)]
    batches: Iterator[Array] = tuning_batches(ModelCard("net", "net", 4, 3), gray)
    for batch in (next(batches), next(batches)):
        assert batch.shape == (2, 3, 64, 64) and batch.dtype == np.float32 and np.allclose(batch, 0.2)
    luma = next(tuning_batches(ModelCard("net", "net", 2, 1, min_size=70, size_multiple=8), None))
    assert luma.shape == (2, 1, 72, 72) and luma.std() > 0.05


def test_the_option_is_for_int8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(program, ["export", "net.pth", "--tune", "5"], prog_name="sr-deploy")
    assert result.exit_code == 2 and "give --int8 too" in result.output
