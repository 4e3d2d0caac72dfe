"""A backend is asked for what it names, and for nothing else."""

from __future__ import annotations

import inspect
import pkgutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from sr_deploy import Upscaler, engines
from sr_deploy.card import Arithmetic
from sr_deploy.engines import BACKENDS, Backend, BackendModule, Engine, available_backends, select_backend
from sr_deploy.engines.open import open_bundle
from sr_deploy.engines.parity import read_probes, verify
from sr_deploy.errors import EngineError, UsageError
from sr_deploy.export.certify import certify

NETWORK = "fast-x2"


class SingleBackend(Backend):
    """ONNX Runtime that knows fp32 alone."""

    def usable_precisions(self) -> tuple[Arithmetic, ...]:
        return ("fp32",)

    def open(self, graph: bytes, *, precision: Arithmetic, threads: int | None, gpu: int = 0) -> Engine:
        del gpu
        if precision != "fp32":
            raise EngineError(f"asked for {precision}")
        return select_backend("onnxruntime").open(graph, precision=precision, threads=threads)


@pytest.fixture
def _single(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "BACKENDS", (*BACKENDS, SingleBackend("single", "onnxruntime", "cpu", "")))


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.name)
def test_a_backend_offers_what_the_protocol_names(backend: Backend) -> None:
    module = pkgutil.resolve_name(f"sr_deploy.engines.{backend.module}")
    wanted = {name: member for name, member in vars(BackendModule).items() if not name.startswith("_")}
    assert wanted.keys() == {"require", "usable_precisions", "open"}
    for name, member in wanted.items():
        assert (inspect.signature(member).parameters.keys() - {"self"}) <= inspect.signature(
            getattr(module, name)
        ).parameters.keys()


@pytest.mark.parametrize("backend", available_backends())
def test_every_backend_names_fp32(backend: str) -> None:
    """It is what a bad tile is computed in again, and what a certificate begins with."""
    assert "fp32" in available_backends()[backend]


@pytest.mark.usefixtures("_single")
def test_a_certificate_asks_for_nothing_else() -> None:
    bundle = open_bundle(NETWORK)
    stored = {name: pair for name, pair in read_probes(bundle).items() if pair[0].size < 3000}
    links = certify(
        {name: image for name, (image, _) in stored.items()},
        {name: output for name, (_, output) in stored.items()},
        scale=bundle.card.scale,
        reparameterized=None,
        fp32=onnx.load(bundle.graph("fp32")),
        fp16=onnx.load(bundle.graph("fp16")),
    )
    targets = {link.target for link in links}
    assert {target for target in targets if target.endswith(" on single")} == {"fp32.onnx on single"}
    assert {"fp16.onnx on onnxruntime", "fp16.onnx on openvino"} <= targets


@pytest.mark.usefixtures("_single")
def test_a_verification_asks_for_nothing_else() -> None:
    links = verify(open_bundle(NETWORK), backend="single")
    assert {link.target for link in links} == {"single fp32", "single fp32 pixels"}


@pytest.mark.usefixtures("_single")
def test_an_upscaler_asks_for_nothing_else() -> None:
    image = np.full((8, 9, 3), 90, np.uint8)
    with Upscaler(NETWORK, backend="single") as upscale:
        assert upscale(image).shape == (16, 18, 3)
    with pytest.raises(UsageError, match=r"^single does not compute fp16 here, only fp32; choose"):
        Upscaler(NETWORK, backend="single", precision="fp16")


@pytest.mark.usefixtures("_single")
def test_a_lone_fp16_graph_needs_a_backend_that_names_fp16() -> None:
    graph: Path = open_bundle(NETWORK).graph("fp16")
    with pytest.raises(UsageError, match=r"^single does not compute fp16 here"):
        Upscaler(graph, backend="single")
