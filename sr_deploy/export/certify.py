"""The parity chain: original -> reparameterized -> graph -> every backend on this machine, in numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from onnx import ModelProto
from torch import nn

from sr_deploy.arrays import Array
from sr_deploy.bundle import PROBE_FILE
from sr_deploy.card import Link, ModelCard, Precision
from sr_deploy.engines import Arithmetic, available_backends, open_engine, select_backend
from sr_deploy.engines.difference import compare
from sr_deploy.engines.int8_loss import measure_loss
from sr_deploy.errors import CertificationError

ImageFunction = Callable[[Array], Array]
"""(1, C, H, W) float32 in [0, 1] -> (1, C, sH, sW) float32, about [0, 1]."""

ORIGINAL, REPARAMETERIZED = "original", "reparameterized"


def as_function(module: nn.Module) -> ImageFunction:
    """A torch module as a function of NumPy arrays."""

    def run(probe: Array) -> Array:
        with torch.inference_mode():
            return np.asarray(module(torch.from_numpy(probe)).numpy())

    return run


def run_original(original: ImageFunction, probes: Mapping[str, Array]) -> dict[str, Array]:
    """Outputs of the original on every probe, clamped to [0, 1].

    Raises: CertificationError, as `require_finite`.
    """
    outputs = {name: original(probe) for name, probe in probes.items()}
    for name, output in outputs.items():
        require_finite(name, output)
    return {name: np.clip(output, 0, 1).astype(np.float32) for name, output in outputs.items()}


def require_finite(probe: str, *outputs: Array) -> None:
    """Nothing can be compared with NaN and Inf, also where only an 8-bit form has them, which multiplies by 255.

    Raises: CertificationError.
    """
    with np.errstate(over="ignore"):
        finite = all(np.isfinite(output * np.float32(255)).all() for output in outputs)
    if not finite:
        raise CertificationError(
            f"the original network gives NaN or Inf on the probe '{probe}'; the weights are broken; get them again"
        )


def certify(
    probes: Mapping[str, Array],
    outputs: Mapping[str, Array],
    *,
    scale: int,
    reparameterized: ImageFunction | None,
    fp32: ModelProto,
    fp16: ModelProto | None,
) -> tuple[Link, ...]:
    """Every link of the chain on every probe, each measured against the original's `outputs`.

    bf16 is an arithmetic of this machine and no form of the bundle: where it misses its floor, the link says so, no more.

    Raises: CertificationError at the first other step that misses its floor, with the worst probe of it.
    """
    links: list[Link] = []
    if reparameterized is not None:
        found = {name: reparameterized(probe) for name, probe in probes.items()}
        links += _judged(outputs, found, scale=scale, target=REPARAMETERIZED, arithmetic="fp32")
    for precision, backend, arithmetic in runs():
        graph = fp32 if precision == "fp32" else fp16
        if graph is None:
            continue
        target = f"{precision}.onnx on {backend}" + (" in bf16" if arithmetic == "bf16" else "")
        found = run_graph(graph, probes, backend=backend, arithmetic=arithmetic)
        links += _judged(outputs, found, scale=scale, target=target, arithmetic=arithmetic)
    return tuple(links)


def certify_int8(card: ModelCard, fp32: ModelProto, int8: ModelProto, *, precision: Precision, loss: float) -> tuple[Link, ...]:
    """The link from fp32 to INT8 on every backend here that takes it.

    Raises: CertificationError where one is further away than the loss allows.
    """
    names = [name for name in available_backends() if precision in select_backend(name).precisions()]
    links = [measure_loss(card, fp32, int8, precision=precision, backend=name, loss=loss) for name in names]
    if broken := [link for link in links if not link.passed]:
        raise CertificationError(
            f"the chain breaks at '{broken[0].target}': Y is {broken[0].psnr:.1f} dB from fp32, expected is {broken[0].floor}. "
            "Nothing was written; export without --int8, and report this network"
        )
    return tuple(links)


def runs() -> Iterator[tuple[Precision, str, Arithmetic]]:
    """Which graph runs on which backend in which arithmetic, of those that it names: fp32 first, and ONNX Runtime first, which
    computes exactly what a graph says. An fp16 graph runs also where a backend takes it and the machine computes it in fp32."""
    order = sorted(available_backends(), key=lambda name: not name.startswith("onnxruntime"))
    named = {name: select_backend(name).precisions() for name in order}
    for backend in order:
        yield from (("fp32", backend, arithmetic) for arithmetic in ("fp32", "bf16") if arithmetic in named[backend])
    yield from (("fp16", backend, "fp16") for backend in order if "fp16" in named[backend])


def run_graph(
    graph: ModelProto, probes: Mapping[str, Array], *, backend: str = "onnxruntime", arithmetic: Arithmetic = "fp32"
) -> dict[str, Array]:
    """Outputs of a graph on every probe, as float32."""
    with open_engine(graph, backend=backend, precision=arithmetic, threads=1) as engine:
        dtype, source, target = engine.inputs[0].dtype, engine.inputs[0].name, engine.outputs[0].name
        results = {name: engine.run({source: probe.astype(dtype)})[target] for name, probe in probes.items()}
    return {name: result.astype(np.float32) for name, result in results.items()}


def _judged(
    outputs: Mapping[str, Array], found: Mapping[str, Array], *, scale: int, target: str, arithmetic: Arithmetic
) -> list[Link]:
    links = [
        compare(outputs[name], array, scale=scale, source=ORIGINAL, target=target, probe=name, precision=arithmetic)
        for name, array in found.items()
    ]
    return checked(links, arithmetic)


def checked(links: list[Link], arithmetic: Arithmetic) -> list[Link]:
    """The links of one step.

    Raises: CertificationError, with the worst of them, when one missed its floor, unless the step is in bf16.
    """
    broken = [link for link in links if not link.passed]
    if broken and arithmetic != "bf16":
        worst = min(broken, key=lambda link: link.psnr)
        raise CertificationError(
            f"the chain breaks at '{worst.target}': on the probe '{worst.probe}' it differs from the original by up to "
            f"{worst.max_lsb:.2f} 8-bit steps (PSNR {worst.psnr:.1f} dB), expected is {worst.floor}. Nothing was written; "
            "export without optional folds (--dense-bsconv, --merge-parallel), and report this network if it still breaks"
        )
    return links


def write_probes(folder: Path, probes: Mapping[str, Array], outputs: Mapping[str, Array]) -> None:
    """Write probe.npz: `NAME.input` and `NAME.output` of the original, so that a machine verifies itself without torch."""
    arrays = {f"{name}.input": probe for name, probe in probes.items()}
    arrays |= {f"{name}.output": outputs[name] for name in probes}
    np.savez_compressed(folder / PROBE_FILE, allow_pickle=False, **arrays)
