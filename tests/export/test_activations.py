import math

import numpy as np
import torch
from torch import nn

from sr_deploy.export.activations import measure_activations, measure_ranges
from sr_deploy.export.probes import noise_probes, range_probes
from sr_deploy.export.trace import trace
from tests.export.conftest import Tiny


def test_maxima_are_those_torch_sees(tiny: Tiny) -> None:
    model = trace(tiny, channels=3)
    seen: dict[str, float] = {}

    def watch(name: str) -> None:
        def hook(_module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
            seen[name] = max(seen.get(name, 0.0), float(output.abs().max()))

        tiny.get_submodule(name).register_forward_hook(hook)

    for name in ("head", "down", "tail"):
        watch(name)
    probes = {name: probe for name, probe in range_probes(3).items() if name in ("photo", "one bright pixel")}
    with torch.inference_mode():
        for probe in probes.values():
            tiny(torch.from_numpy(probe))
    found = measure_activations(model, probes)
    for name, expected in seen.items():
        np.testing.assert_allclose(found[f"{name}/Conv"], expected, rtol=1e-5)
    assert found["input"] == 1


def test_nan_counts_as_infinite(tiny: Tiny) -> None:
    model = trace(tiny, channels=3)
    broken = np.full((1, 3, 16, 16), np.nan, np.float32)
    found = measure_activations(model, {"nan": broken})
    assert math.isinf(found["head/Conv"])


class RunsAway(nn.Module):
    """Harmless unless neighbours alternate."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        step = (x[:, :, :, 1:] - x[:, :, :, :-1]).abs().mean((1, 2, 3), keepdim=True)
        return x + 1e6 * nn.functional.relu(step - 0.9)


def test_probes_on_which_the_network_itself_diverges_do_not_decide() -> None:
    model = trace(RunsAway().eval(), channels=3)
    found = measure_ranges(model, range_probes(3), noise_probes(3))
    assert list(found.diverging) == ["checkerboard of 1"]
    assert found.diverging["checkerboard of 1"] > 1e4
    assert max(found.calm.values()) < 10
