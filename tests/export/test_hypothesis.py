from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sr_deploy.architectures import load_checkpoint
from sr_deploy.errors import AmbiguousCheckpointError, ExportError, UsageError
from sr_deploy.export.hypothesis import Candidate, choose, describe
from sr_deploy.export.subject import Request, subject_of
from sr_deploy.probe_picture import MARGIN, gain

DECIDED = [
    ("RFDN_AIM.pth", {"value_range": 255.0, "inner_skips": True}),
    ("team30_RFDN.pkl", {"value_range": 255.0, "inner_skips": True}),
    ("team40_rfdn_pruned.pth", {"value_range": 255.0, "inner_skips": False}),
    ("rlfn_ntire_x4.pth", {"value_range": 255.0}),
    ("reprfn_ntire_x4.pth", {"value_range": 1.0}),
    ("net_g_BSRN-S.pth", {"value_range": 1.0}),
    ("PANx2_DF2K.pth", {"value_range": 1.0, "scale": 2}),
    ("ECBSR_M4C16_x2.pth", {"value_range": 1.0}),
    ("ECBSR_M4C32_x3.pth", {"value_range": 1.0}),
    ("ECBSR_M4C16_x4.pth", {"value_range": 1.0}),
    ("team38_span_ch28_slim.pth", {"mean": "div2k", "img_range": 255.0}),
]


@pytest.mark.parametrize(("checkpoint", "expected"), DECIDED)
def test_published_checkpoints_are_read_right(shared: Path, checkpoint: str, expected: dict[str, Any]) -> None:
    loaded = load_checkpoint(shared / "checkpoints" / checkpoint)
    detection = subject_of(loaded, Request({}, False), where=checkpoint).detection
    best = max(detection.hypotheses, key=gain)
    assert detection.decided_by == "measurement"
    assert {key: best.assumes[key] for key in expected} == expected
    assert detection.margin is not None
    assert detection.margin > 3 * MARGIN
    assert gain(best) > 1


class Upscaled(nn.Module):
    """Plain upscaling by 2, blurred or broken on request."""

    def __init__(self, mode: str = "bicubic", add: float = 0.0) -> None:
        super().__init__()
        self.mode, self.add = mode, add

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.interpolate(x, scale_factor=2, mode=self.mode) + self.add


def candidate(module: nn.Module, **assumes: Any) -> Candidate:
    return Candidate(2, 3, {"scale": 2, **assumes}, assumes, lambda: module)


def test_equal_readings_ask_and_name_the_flags() -> None:
    twins = [
        candidate(Upscaled(), value_range=1.0, inner_skips=True),
        candidate(Upscaled(), value_range=255.0, inner_skips=False),
    ]
    with pytest.raises(AmbiguousCheckpointError) as raised:
        choose(twins, requested={}, where="twins.pth")
    assert "--value-range 1|255" in str(raised.value)
    assert "--variant inner_skips=true|false" in str(raised.value)


@pytest.mark.filterwarnings("ignore:.*bicubic has")
def test_a_reading_with_nan_is_out() -> None:
    broken = [candidate(Upscaled(add=float("nan")), value_range=1.0), candidate(Upscaled("nearest"), value_range=255.0)]
    choice = choose(broken, requested={}, where="x.pth")
    assert choice.index == 1
    assert choice.detection.hypotheses[0].psnr == 0


@pytest.mark.parametrize("add", [float("nan"), 0.3])
def test_what_no_reading_upscales_is_refused_unless_it_is_wanted(add: float) -> None:
    broken = [candidate(Upscaled(add=add), value_range=value) for value in (1.0, 255.0)]
    with pytest.raises(
        ExportError, match=r"x\.pth: no reading of the weights upscales; the best one, value range 1, has .* --anyway"
    ):
        choose(broken, requested={}, where="x.pth")
    with pytest.raises(AmbiguousCheckpointError, match=r"dB"):
        choose(broken, requested={}, anyway=True, where="x.pth")


def test_worse_than_bicubic_warns_but_exports() -> None:
    with pytest.warns(UserWarning, match=r"Either the weights are .* or the network was trained for another degradation"):
        choice = choose([candidate(Upscaled("nearest"))], requested={}, where="x.pth")
    assert choice.detection.decided_by == "structure"
    assert choice.detection.margin is None


def test_a_flag_against_the_measurement_wins_and_warns() -> None:
    readings = [candidate(Upscaled("nearest", 0.2), value_range=1.0), candidate(Upscaled(), value_range=255.0)]
    with pytest.warns(UserWarning, match=r"asked for value range 1 .* but value range 255 gives"):
        choice = choose(readings, requested={"value_range": 1.0}, where="x.pth")
    assert (choice.index, choice.detection.decided_by) == (0, "flag")


@pytest.mark.parametrize(
    ("requested", "words"),
    [
        ({"inner_skip": True}, "no setting 'inner_skip'; it has scale, value_range"),
        ({"value_range": 128.0}, "value_range = 128 contradicts the weights, which leave only 1, 255"),
    ],
)
def test_impossible_requests_are_refused(requested: dict[str, Any], words: str) -> None:
    readings = [candidate(Upscaled(), value_range=value) for value in (1.0, 255.0)]
    with pytest.raises(UsageError, match=words):
        choose(readings, requested=requested, where="x.pth")


def test_describe() -> None:
    assert describe({"value_range": 255.0, "inner_skips": False}) == "value range 255, inner skips no"
    assert describe({}) == "the only reading"
