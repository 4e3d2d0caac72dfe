"""Fine-tuning of convs in 8 bits, against what the fp32 network makes of the same picture: no original is needed.

Source: Esser et al., Learned Step Size Quantization, 2020, section 2 (gradients of steps); Nagel et al., A White Paper on
Neural Network Quantization, 2021, section 4 (gradients straight through rounding, beginning at what was found without them).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from onnx import ModelProto, NodeProto
from torch import Tensor
from torch.nn import functional

from sr_deploy.arrays import Array
from sr_deploy.export.int8.calibration import Quantizer
from sr_deploy.export.int8.rounding import LARGEST_CODE, QuantizedWeights
from sr_deploy.export.int8.torch_graph import TorchGraph, convolve

_CODES_RATE = 0.02
"""Of weights and biases, in codes a step at first."""

_STEP_RATE = 5e-3
"""Of the quantizers' steps, in parts of them."""


@dataclass(frozen=True)
class Tuned:
    """What training came to: the convs of a graph, by name, and the quantizers of the tensors in front of them."""

    weights: Mapping[str, QuantizedWeights]
    quantizers: Mapping[str, Quantizer]


def tune(
    model: ModelProto,
    weights: Mapping[str, QuantizedWeights],
    quantizers: Mapping[str, Quantizer],
    batches: Iterator[Array],
    *,
    seconds: float,
) -> Tuned:
    """Train the codes, biases and steps of convs together, for so long.

    model: the fp32 graph, which is the teacher. weights: of the convs in 8 bits, by name; the others stay as they are.
    batches: crops of pictures as the network gets them, each (N, C, H, W) float32.

    Raises: ExportError for a graph that torch cannot run here.
    """
    graph = TorchGraph(model)
    nodes = {node.name: node for node in model.graph.node if node.name in weights}
    steps = {node.input[0]: _TrainedQuantizer(quantizers[node.input[0]]) for node in nodes.values()}
    convs = {name: _TrainedConv(node, weights[name], steps[node.input[0]]) for name, node in nodes.items()}
    codes = [parameter for conv in convs.values() for parameter in (conv.codes, conv.bias)]
    optimizer = torch.optim.Adam(
        [{"params": codes, "lr": _CODES_RATE}, {"params": [step.log_step for step in steps.values()], "lr": _STEP_RATE}]
    )
    rates = (_CODES_RATE, _STEP_RATE)
    began = time.monotonic()
    while (spent := (time.monotonic() - began) / seconds) < 1:
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * (1 + math.cos(math.pi * spent)) / 2
        batch = torch.from_numpy(next(batches))
        with torch.no_grad():
            exact = graph(batch)
        loss = functional.mse_loss(graph(batch, convs), exact)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return Tuned(
        {name: conv.result() for name, conv in convs.items()},
        {**quantizers, **{name: step.result() for name, step in steps.items()}},
    )


class _TrainedQuantizer:
    """A quantizer whose step is trained."""

    def __init__(self, quantizer: Quantizer) -> None:
        self._quantizer = quantizer
        self._balance = None if quantizer.balance is None else torch.from_numpy(quantizer.balance)[:, None, None]
        self.log_step = torch.tensor(math.log(quantizer.scale), requires_grad=True)

    def __call__(self, values: Tensor) -> Tensor:
        zero, step = self._quantizer.zero_point, self.log_step.exp()
        low, high = (-127, 127) if self._quantizer.symmetric else (0, 255)
        balanced = values if self._balance is None else values * self._balance
        return (_rounded((balanced / step).clamp(low - zero, high - zero))) * step

    def result(self) -> Quantizer:
        return replace(self._quantizer, scale=float(self.log_step.detach().exp()))


class _TrainedConv:
    """A conv of codes that are trained; its bias in units of the largest code times a step."""

    def __init__(self, node: NodeProto, weights: QuantizedWeights, activation: _TrainedQuantizer) -> None:
        self._node = node
        self._activation = activation
        self._scales = torch.from_numpy(weights.scales)
        self._unit = self._scales * LARGEST_CODE * float(activation.log_step.detach().exp())
        self.codes = torch.from_numpy(weights.codes.astype(np.float32)).requires_grad_()
        self.bias = (torch.from_numpy(weights.bias) / self._unit).requires_grad_()

    def __call__(self, values: Tensor) -> Tensor:
        codes = _rounded(self.codes.clamp(-LARGEST_CODE, LARGEST_CODE))
        return convolve(self._node, self._activation(values), codes * self._scales[:, None, None, None], self.bias * self._unit)

    def result(self) -> QuantizedWeights:
        codes = self.codes.detach().clamp(-LARGEST_CODE, LARGEST_CODE).round().numpy().astype(np.int8)
        return QuantizedWeights(codes, self._scales.numpy(), (self.bias.detach() * self._unit).numpy())


def _rounded(values: Tensor) -> Tensor:
    """Rounded; the gradient goes straight through."""
    return values + (values.round() - values).detach()
