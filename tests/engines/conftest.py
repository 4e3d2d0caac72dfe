"""TensorRT without TensorRT: stand-ins of both flavours, on the CPU device."""

from __future__ import annotations

import pytest

from sr_deploy.device.device import Device
from sr_deploy.engines.tensorrt.library import TENSORRT, TENSORRT_RTX, Library
from tests.engines.tensorrt.fake_tensorrt import fake_module


@pytest.fixture(scope="module")
def device() -> Device:
    pytest.importorskip("warp")
    return Device("cpu")


@pytest.fixture(params=[TENSORRT, TENSORRT_RTX], ids=lambda flavour: flavour.name)
def library(request: pytest.FixtureRequest) -> Library:
    return Library(request.param, fake_module(rtx=request.param.builds_ahead))
