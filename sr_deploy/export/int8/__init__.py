"""INT8 by choice: calibrated, each conv measured, the fastest ones taken as long as together they stay within a loss.

Source: Nagel et al., A White Paper on Neural Network Quantization, 2021 (terms, order of the steps).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from onnx import ModelProto

from sr_deploy.arrays import Array
from sr_deploy.card import ModelCard, Precision
from sr_deploy.engines.int8_loss import allowed_error, loss_of, luma_error, psnr_of, quality_input
from sr_deploy.export.certify import run_graph
from sr_deploy.export.int8.calibration import Quantizer, moments_of, ranges_of, weights_of
from sr_deploy.export.int8.choice import choose
from sr_deploy.export.int8.equalization import balance_of, equalizable, equalize, makers_with_factors
from sr_deploy.export.int8.graph import to_int8
from sr_deploy.export.int8.pictures import calibration_inputs, tuning_batches
from sr_deploy.export.int8.rounding import QuantizedWeights, quantize_weights
from sr_deploy.export.int8.speed import STORED, SpeedModel, TimeEstimate, measured_model

SYMMETRIC: Mapping[Precision, bool] = {"int8": False, "int8-symmetric": True}
"""Whether the codes of activations lie around 0, by the graph."""

_TUNED_ERROR = 2.0
"""Times the allowed error: what convs may have before fine-tuning."""

LEAST_FACTOR = 1.15
"""What a graph in 8 bits must gain to be worth its error."""


@dataclass(frozen=True)
class Int8Graph:
    """What was made of an fp32 graph. model: None where nothing keeps the budget and gains enough. loss: dB of Y on photographs
    by the error against fp32; psnr: of Y against fp32, in dB. factor: how many times as fast, by the model of times.
    allowed: the loss that was asked for. errors: of each conv when it alone is in 8 bits, as mean square of Y, by its name.
    chosen: those that are. tuned: whether training made them better."""

    model: ModelProto | None
    loss: float
    psnr: float
    factor: float
    allowed: float
    errors: Mapping[str, float]
    chosen: frozenset[str]
    tuned: bool = False

    @property
    def kept(self) -> tuple[str, ...]:
        """The convs that stayed in fp32."""
        return tuple(name for name in self.errors if name not in self.chosen)


def quantize(
    model: ModelProto,
    card: ModelCard,
    *,
    loss: float,
    calibration: Sequence[Array] | None = None,
    symmetric: bool = False,
    speed: SpeedModel,
    seconds: float = 0.0,
) -> Int8Graph:
    """The fp32 graph of a network with as many of its convs in 8 bits as a loss allows.

    loss: in dB of Y. calibration: pictures like those that will come, (H, W, 3) uint8 RGB; None takes drawn ones.
    symmetric: codes of activations around 0, as GPUs want them. speed: what the choice is made by. seconds: for fine-tuning
    of more convs than hold the loss without it.

    Raises: BackendUnavailableError, EngineError, ExportError.
    """
    if seconds:
        from sr_deploy.export.int8.torch_graph import TorchGraph

        TorchGraph(model)  # What cannot be tuned is told before anything is measured.
    inputs = calibration_inputs(card, calibration)
    model = equalize(model, ranges_of(model, equalizable(model), inputs))
    timing = TimeEstimate(model, speed)
    parts = _quantized(model, timing, inputs, symmetric=symmetric)
    image = quality_input(card)
    exact = _output(model, image)

    def error_of(parts: _QuantizedConvs) -> Callable[[frozenset[str]], float]:
        return lambda chosen: luma_error(exact, _output(parts.graph(chosen), image))

    errors = {name: error_of(parts)(frozenset([name])) for name in timing.layers}
    allowed = allowed_error(card.scale, loss)
    chosen, mse = choose(errors, allowed, timing, error_of(parts))
    wanted = choose(errors, allowed * _TUNED_ERROR, timing, error_of(parts))[0] if seconds else frozenset[str]()
    tuned = False
    if wanted:
        trained = parts.tuned(wanted, tuning_batches(card, calibration), seconds)
        found = choose({name: errors[name] for name in wanted}, allowed, timing, error_of(trained))
        tuned = timing.saved(found[0]) > timing.saved(chosen)
        if tuned:
            parts, (chosen, mse) = trained, found
    factor = timing.factor(chosen)
    is_worth = factor >= LEAST_FACTOR
    model_in_8_bits = parts.graph(chosen) if is_worth else None
    return Int8Graph(model_in_8_bits, loss_of(card.scale, mse), psnr_of(mse), factor, loss, errors, chosen, tuned)


@dataclass(frozen=True)
class _QuantizedConvs:
    model: ModelProto
    weights: Mapping[str, QuantizedWeights]
    quantizers: Mapping[str, Quantizer]

    def graph(self, chosen: frozenset[str]) -> ModelProto:
        return to_int8(self.model, {name: self.weights[name] for name in sorted(chosen)}, self.quantizers)

    def tuned(self, chosen: frozenset[str], batches: Iterator[Array], seconds: float) -> _QuantizedConvs:
        """With these trained together."""
        from sr_deploy.export.int8.tuning import tune

        found = tune(
            self.model, {name: self.weights[name] for name in sorted(chosen)}, self.quantizers, batches, seconds=seconds
        )
        return replace(self, weights={**self.weights, **found.weights}, quantizers=found.quantizers)


def _quantized(model: ModelProto, timing: TimeEstimate, inputs: Sequence[Array], *, symmetric: bool) -> _QuantizedConvs:
    """Every conv in 8 bits, each on its own."""
    convs = [layer.conv for layer in timing.layers.values()]
    sources = list(dict.fromkeys(conv.input[0] for conv in convs))
    weights = {conv.name: weights_of(model, conv) for conv in convs}
    made_by_convs = makers_with_factors(model, sources)
    quantizers = {}
    for name, seen in ranges_of(model, sources, inputs).items():
        readers = [weights[conv.name][0] for conv in convs if conv.input[0] == name]
        balance = None if name in made_by_convs else balance_of(seen.peaks, readers)
        quantizers[name] = seen.quantizer(symmetric=symmetric, balance=balance)
    moments = moments_of(model, convs, quantizers, inputs)
    found = {}
    for conv in convs:
        weight, bias = weights[conv.name]
        balance = quantizers[conv.input[0]].balance
        balanced = weight if balance is None else weight / balance[None, :, None, None]
        found[conv.name] = quantize_weights(balanced, bias, moments[conv.name])
    return _QuantizedConvs(model, found, quantizers)


def _output(model: ModelProto, image: Array) -> Array:
    return run_graph(model, {"quality": image})["quality"]


def speed_model() -> SpeedModel:
    """That of this machine where it has instructions for 8 bits, else the stored one: a bundle is made for servers."""
    return measured_model() if _has_vnni() else STORED


def _has_vnni() -> bool:
    """Whether this machine's CPU multiplies codes of 8 bits with instructions made for it."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return any(f" {name}" in flags for name in ("avx512_vnni", "avx_vnni", "amx_int8", "asimddp"))
