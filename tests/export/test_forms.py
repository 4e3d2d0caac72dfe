"""The two forms of a network, from checkpoint to picture."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from sr_deploy.architectures import Config, Network, architecture_named, load_checkpoint, merge
from sr_deploy.export import export_bundle
from tests import short_and_long
from tests.architectures.conftest import CONFIGS, randomize  # noqa: F401

TRAINED = {name: config for name, config in CONFIGS if not getattr(config, "merged", True)}


def upscaled(state: dict[str, torch.Tensor], config: Config, folder: Path, x: np.ndarray) -> np.ndarray:
    """What the bundle of these weights makes of a picture, in steps of 8 bits; what they leave open is as in the config."""
    folder.mkdir()
    torch.save(state, folder / "net.pth")
    facts = {"value_range": 1.0, **dataclasses.asdict(config)}
    settings = {name: facts[name] for name in load_checkpoint(folder / "net.pth").readings[0].assumes}
    value_range = settings.pop("value_range", None)
    bundle = export_bundle(folder / "net.pth", folder / "net", value_range=value_range, variant=settings, anyway=True)
    session = onnxruntime.InferenceSession(bundle.graph("fp32"), providers=["CPUExecutionProvider"])
    return 255 * session.run(None, {"input": x})[0]


@pytest.mark.filterwarnings("ignore:.*on the test picture")
@pytest.mark.parametrize("name", short_and_long(TRAINED, ["span"]))
def test_both_forms_make_the_same_picture(
    name: str,
    randomize: Callable[[nn.Module], Network],  # noqa: F811
    tmp_path: Path,
) -> None:
    config, architecture = TRAINED[name], architecture_named(name)
    network = randomize(architecture.build(config)).float()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(0.3)
    x = np.random.default_rng(3).random((1, config.colors, 24, 18), dtype=np.float32)
    trained = upscaled(dict(network.state_dict()), config, tmp_path / "trained", x)
    merged = upscaled(dict(merge(network).state_dict()), config, tmp_path / "merged", x)
    assert trained.std() > 1
    assert np.abs(trained - merged).max() <= 1
