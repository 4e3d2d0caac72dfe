"""How large the values inside a graph become."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from onnx import ModelProto, TensorProto, helper, shape_inference

from sr_deploy.arrays import Array
from sr_deploy.engines import open_engine

_PREFIX = "activation."
_SANE_OUTPUT = 16.0
"""An image lies in [0, 1] and overshoots at edges; published networks that run away pass this by far."""


@dataclass(frozen=True)
class Activations:
    """Largest absolute value of every float tensor.

    `calm`: over the probes on which the output stays an image; they decide what fp16 can hold. `noise`: on white noise.
    `diverging`: the probes on which the network itself runs away in fp32, with its largest output there; no precision helps.
    """

    calm: dict[str, float]
    noise: dict[str, float]
    diverging: dict[str, float]


def measure_ranges(model: ModelProto, probes: dict[str, Array], noise: dict[str, Array]) -> Activations:
    """The activations of an fp32 graph on real and synthetic `probes`, the first of them a photograph, and on noise.

    Raises: BackendUnavailableError without ONNX Runtime; EngineError.
    """
    each = _measure_each(model, probes | noise)
    on_noise = [each.pop(name) for name in noise]
    last = next(node for node in model.graph.node if model.graph.output[0].name in node.output)
    unclamped = last.input[0] if last.op_type == "Clip" else last.output[0]
    outputs = {name: values[unclamped] for name, values in each.items()}
    limit = _SANE_OUTPUT * max(1.0, next(iter(outputs.values())))
    diverging = {name: value for name, value in outputs.items() if value > limit}
    calm = [values for name, values in each.items() if name not in diverging]
    return Activations(_largest(calm), _largest(on_noise), diverging)


def measure_activations(model: ModelProto, inputs: Mapping[str, Array]) -> dict[str, float]:
    """Largest absolute value of every float tensor of an fp32 graph, over all `inputs` (by probe name, fed one by one).

    Infinite where a NaN or an Inf was seen. Computed inside the graph by ONNX Runtime, in fp32.

    Raises: BackendUnavailableError without ONNX Runtime; EngineError.
    """
    return _largest(list(_measure_each(model, inputs).values()))


def _largest(measured: list[dict[str, float]]) -> dict[str, float]:
    return {name: max(values[name] for values in measured) for name in measured[0]}


def _measure_each(model: ModelProto, inputs: Mapping[str, Array]) -> dict[str, dict[str, float]]:
    instrumented, names = _instrumented(model)
    source = model.graph.input[0].name
    measured: dict[str, dict[str, float]] = {}
    with open_engine(instrumented, backend="onnxruntime", threads=1) as engine:
        for probe, array in inputs.items():
            results = engine.run({source: array})
            peaks = (float(results[f"{_PREFIX}{index}.max"]) for index in range(len(names)))
            finite = (math.isfinite(float(results[f"{_PREFIX}{index}.sum"])) for index in range(len(names)))
            measured[probe] = {
                name: peak if known else math.inf for name, peak, known in zip(names, peaks, finite, strict=True)
            }
    return measured


def _instrumented(model: ModelProto) -> tuple[ModelProto, list[str]]:
    """The graph giving max and sum of |t| for each float tensor t; the sum is non-finite if anything is."""
    result = ModelProto()
    result.CopyFrom(model)
    inferred = shape_inference.infer_shapes(model).graph
    values = (*inferred.input, *inferred.value_info, *inferred.output)
    floats = {value.name for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT}
    made = [*(value.name for value in model.graph.input), *(name for node in model.graph.node for name in node.output)]
    names = [name for name in made if name in floats]
    del result.graph.output[:]
    for index, name in enumerate(names):
        stem = f"{_PREFIX}{index}"
        nodes = [
            helper.make_node("Abs", [name], [f"{stem}.abs"]),
            helper.make_node("ReduceMax", [f"{stem}.abs"], [f"{stem}.max"], keepdims=0),
            helper.make_node("ReduceSum", [f"{stem}.abs"], [f"{stem}.sum"], keepdims=0),
        ]
        result.graph.node.extend(nodes)
        for kind in ("max", "sum"):
            result.graph.output.append(helper.make_tensor_value_info(f"{stem}.{kind}", TensorProto.FLOAT, []))
    return result, names
