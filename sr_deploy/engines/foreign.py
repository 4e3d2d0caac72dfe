"""A foreign image graph -> its portable form: (N,C,H,W) float32 in [0,1] -> (N,C,sH,sW), and what it is, found by running it.

What a file does not tell is measured: layout and colors by the shapes that come out, the sizes that it takes by trying, its
value range on the picture whose HR is known. What does not come out right in any reading is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import numpy as np
from onnx import ModelProto, TensorProto, compose, helper, numpy_helper

from sr_deploy.arrays import Array
from sr_deploy.card import Detection, Hypothesis, ModelCard
from sr_deploy.engines import BACKENDS, open_engine
from sr_deploy.engines.engine import Engine
from sr_deploy.engines.facts import cost_of, graph_facts
from sr_deploy.engines.foreign_ports import Ports, portable_form, ports_of, readings_of
from sr_deploy.engines.graph_file import read_graph
from sr_deploy.errors import BackendUnavailableError, BundleError, EngineError, first_line
from sr_deploy.probe_picture import MARGIN, degrade, gain, measure, measure_bicubic, probe_picture

VALUE_RANGES = (1.0, 255.0)
WORST = 6.0
"""dB below bicubic that no reading may be beyond: generous to what was trained to please, while a wrong reading is black."""

_MULTIPLES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
_LEAST_TRIED = 33
_MEASURED_SIDES = (240, 120)
_MEASURED_BYTES, _MEASURED_MACS = 512 << 20, 2 * 10**11


@dataclass(frozen=True)
class Portable:
    """A graph in portable form at the value range 1 of its own ports.

    `rewritten`: whether it differs from the file. `size_multiple` and `min_size`: which sizes of images it takes.
    `types`: of the file's own ports, as ONNX numbers them.
    """

    model: ModelProto
    rewritten: bool
    scale: int
    channels: int
    min_size: int
    size_multiple: int
    types: tuple[int, int]


def to_portable(path: Path) -> Portable:
    """The portable form of the graph in a file.

    Raises: BundleError, with the file's name, when it is no image graph of whole scale.
    """
    model = read_graph(path)
    ports, dims = ports_of(path, model)
    try:
        reasons: list[str] = []
        for layout, channels in readings_of(path, dims):
            try:
                form, scale = portable_form(model, ports, layout, channels)
            except (EngineError, BundleError) as exc:
                reasons.append(str(exc))
                continue
            return _tried(path, form, scale, channels, rewritten=form is not model, ports=ports)
    except BackendUnavailableError:
        raise
    except Exception as exc:  # ONNX's own parts raise anything on graphs that are damaged
        reasons.append(first_line(exc))
    sides = [side for side in dims[1:] if side not in (None, 1, 3)]
    if len(sides) == 2:
        raise BundleError(f"{path}: takes {sides[1]}x{sides[0]} pixels only; export it again with dynamic height and width")
    raise BundleError(f"{path}: {reasons[0].removeprefix(f'{path}: ')}")


def describe(path: Path, portable: Portable) -> tuple[ModelCard, ModelProto, bool]:
    """The card of a foreign graph, its portable form in [0,1], and whether that differs from the file.

    Raises: BundleError when no value range upscales, or the picture does not tell which.
    """
    ranges = VALUE_RANGES[:1] if TensorProto.UINT8 in portable.types else VALUE_RANGES
    forms = [portable.model if value == 1 else ranged(portable.model, value) for value in ranges]
    hr, lr = _picture(path, portable)
    hypotheses, outputs = [], []
    for value, form in zip(ranges, forms, strict=True):
        with _open(form) as engine:
            run = _Runner(engine)
            psnr = measure(run, hr, lr, channels=portable.channels)
        outputs.append(run.output)
        hypotheses.append(Hypothesis({"value_range": value}, round(psnr, 4), round(measure_bicubic(hr, lr), 4)))
    index = _best(path, hypotheses, outputs)
    facts = graph_facts(portable.model, min_size=portable.min_size)
    card = ModelCard(
        name=path.stem,
        architecture="foreign",
        scale=portable.scale,
        channels=cast("Literal[1, 3]", portable.channels),
        value_range=ranges[index],
        detection=Detection(
            "measurement" if len(ranges) > 1 else "structure",
            tuple(hypotheses),
            margin=round(abs(gain(hypotheses[0]) - gain(hypotheses[-1])), 4) if len(ranges) > 1 else None,
            bicubic=hypotheses[index].bicubic,
        ),
        tiling="exact" if facts.exact else "approximate",
        halo=facts.halo,
        min_size=portable.min_size,
        size_multiple=portable.size_multiple,
        activation_bytes=facts.activation_bytes,
        macs=facts.macs,
        parameters=facts.parameters,
    )
    return card, forms[index], portable.rewritten or index > 0


def ranged(model: ModelProto, value_range: float) -> ModelProto:
    """A portable graph of another value range, on [0, 1]."""
    if value_range == 1:
        return model
    result = compose.add_prefix(model, "ranged/")
    graph = result.graph
    source, target = graph.input[0].name, graph.output[0].name
    before = helper.make_node("Mul", ["input", "value_range"], [source], name="value_range/Mul")
    after = helper.make_node("Div", [target, "value_range"], ["output"], name="value_range/Div")
    graph.node.insert(0, before)
    graph.node.append(after)
    graph.initializer.append(numpy_helper.from_array(np.array(value_range, np.float32), "value_range"))
    graph.input[0].name, graph.output[0].name = "input", "output"
    return result


def _tried(path: Path, form: ModelProto, scale: int, channels: int, *, rewritten: bool, ports: Ports) -> Portable:
    """The portable form with the sizes that it takes, each of which was run."""
    with _open(form) as engine:
        reason = ""
        for multiple in _MULTIPLES:
            steps = -(-_LEAST_TRIED // multiple) | 1
            reason = _problem(engine, scale, channels, multiple * steps, multiple * (steps + 2)) or ""
            if not reason:
                break
        if reason:
            raise BundleError(f"{path}: takes none of the sizes that were tried ({reason}); export it again with dynamic sizes")
        sides = [multiple * step for step in (*range(1, 17), 20, 24, 32, 48, 64)]
        smallest = next((side for side in sides if not _problem(engine, scale, channels, side, side)), multiple * steps)
    return Portable(form, rewritten, scale, channels, smallest, multiple, (ports.source_type, ports.target_type))


def _problem(engine: Engine, scale: int, channels: int, height: int, width: int) -> str | None:
    """Why a graph does not take an image of that size, None where it does."""
    image = np.linspace(0, 1, channels * height * width, dtype=np.float32).reshape(1, channels, height, width)
    try:
        output = _Runner(engine)(image)
    except EngineError as exc:
        return first_line(exc)
    wanted = (1, channels, height * scale, width * scale)
    return None if output.shape == wanted else f"it makes {list(output.shape)} of {list(image.shape)}"


class _Runner:
    """An engine of a portable graph as a function; `output` is the last result."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.output: Array = np.zeros(0, np.float32)

    def __call__(self, image: Array) -> Array:
        self.output = self.engine.run({self.engine.inputs[0].name: image})[self.engine.outputs[0].name]
        return self.output


def _open(model: ModelProto) -> Engine:
    """An engine on the CPU; ONNX Runtime first, which takes new sizes without preparing for them."""
    names = [backend.name for backend in BACKENDS if backend.device == "cpu" and not backend.problem()]
    if not names:
        raise BackendUnavailableError(f"no inference runtime for the CPU loads here; install one with `{BACKENDS[0].install}`")
    return open_engine(model, backend=max(names, key=lambda name: name == "onnxruntime"))


def _picture(path: Path, portable: Portable) -> tuple[Array, Array]:
    """HR and LR to measure on, as large as the network's cost allows."""
    for side in _MEASURED_SIDES:
        hr, lr = degrade(probe_picture()[:side, :side], portable.scale, size_multiple=portable.size_multiple)
        if min(lr.shape[:2]) < portable.min_size:
            break
        cost = cost_of(portable.model, *lr.shape[:2])
        if cost.activation_bytes <= _MEASURED_BYTES and cost.macs <= _MEASURED_MACS:
            return hr, lr
    raise BundleError(
        f"{path}: too costly or too particular in its sizes to measure its value range on a small picture; say what it is with "
        f"`sr-deploy export {path.name} --value-range 1|255`"
    )


def _best(path: Path, hypotheses: list[Hypothesis], outputs: list[Array]) -> int:
    """The reading that gains most over bicubic; of two that make the same pixels, the first."""
    index = max(range(len(hypotheses)), key=lambda at: gain(hypotheses[at]))
    best = hypotheses[index]
    if gain(best) < -WORST or best.psnr == 0:
        ranges = " and ".join(f"{item.assumes['value_range']:g}" for item in hypotheses)
        raise BundleError(
            f"{path}: does not upscale: with white as {ranges} it has at best {best.psnr:.2f} dB on a test picture, where "
            f"bicubic has {best.bicubic:.2f}. It wants other values than these; wrap it so that it takes RGB in 0..1"
        )
    if len(hypotheses) == 1 or abs(gain(hypotheses[0]) - gain(hypotheses[1])) >= MARGIN:
        return index
    if same_pixels(*outputs):
        return 0
    raise BundleError(
        f"{path}: a test picture does not tell whether white is 1 or 255 for it ({hypotheses[0].psnr:.2f} and "
        f"{hypotheses[1].psnr:.2f} dB); say so with `sr-deploy export {path.name} --value-range 1|255`"
    )


def same_pixels(first: Array, second: Array) -> bool:
    """Whether two outputs in about [0, 1] are the same pictures, to one 8-bit step on average."""
    one, other = (np.round(np.clip(np.nan_to_num(output), 0, 1) * 255) for output in (first, second))
    return float(np.abs(one - other).mean()) <= 1
