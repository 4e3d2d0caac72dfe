"""Detection without weights: every state dict is its own network's and nobody else's."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sr_deploy import architectures
from sr_deploy.architectures import REGISTRY, Architecture, Config, Network, detect, load_checkpoint
from sr_deploy.errors import AmbiguousCheckpointError, CheckpointError, UnknownArchitectureError, UsageError
from tests.architectures.conftest import CONFIGS

Built = tuple[Architecture[Any], Config]

OURS = {
    "RFDN_AIM.pth": "rfdn",
    "team30_RFDN.pkl": "rfdn",
    "team40_rfdn_pruned.pth": "rfdn",
    "rlfn_x2.pth": "rlfn",
    "rlfn_x4.pth": "rlfn",
    "rlfn_s_x4.pth": "rlfn",
    "rlfn_ntire_x4.pth": "rlfn",
    "reprfn_ntire_x4.pth": "reprfn",
    "net_g_BSRN_x2.pth": "bsrn",
    "net_g_BSRN_x4.pth": "bsrn",
    "net_g_BSRN-S.pth": "bsrn_s",
    "PANx2_DF2K.pth": "pan",
    "PANx4_DF2K.pth": "pan",
    "ECBSR_M4C16_x2.pth": "ecbsr",
    "ECBSR_M4C16_x4.pth": "ecbsr",
    "ECBSR_M4C32_x3.pth": "ecbsr",
    "realesr-animevideov3.pth": "compact",
    "realesr-animevideov3.safetensors": "compact",
    "sudo_UltraCompact_2x_1.121.175_G.pth": "compact",
    "DIPNet.pth": "dipnet",
    "team25_RepRLFN.pth": "reprlfn",
    "EFDN_gv.pth": "efdn",
    "EFDNx2_baseline.pth": "efdn",
    "team05_efdn.pt": "plainrfdn",
    "imdn_x4.pth": "imdn",
    "team03_fmen.pth": "fmen",
    "light_safmnpp.pth": "safmnpp_light",
    "team38_span_ch28_slim.pth": "span",
    "Plain_M6C32_x4.pth": "plain",
    "ETDS_M5C16_x4.pth": "etds",
    "ECBSR_ET_M4C16_x2.pth": "ecbsr_et",
    "ABPN_M4C28_x4.pth": "abpn",
    "ESPCN_x3.pth": "espcn",
    "FSRCNN_x2.pth": "fsrcnn",
    "RVSR_rep.pth": "rvsr",
    "RVSR_train_state_dict.pth": "rvsr",
    "rt4ksr_x2.pth": "rt4ksr",
    "RT4KSR_lightning_best.ckpt": "rt4ksr",
    "PlainUSRS_Rep_x2.pth": "plainusr",
    "PlainUSRS_Rep_x4.pth": "plainusr",
    "PlainUSRU_Rep_x4.pth": "plainusr_ultra",
}


def _state(built: Built) -> dict[str, Tensor]:
    architecture, config = built
    return dict(architecture.build(config).state_dict())


def _save(folder: Path, state: dict[str, Tensor]) -> Path:
    torch.save(state, folder / "weights.pth")
    return folder / "weights.pth"


def test_names_are_unique() -> None:
    assert len({entry.name for entry in REGISTRY}) == len(REGISTRY)


def test_every_network_has_a_config() -> None:
    """Without one, the tests of this folder would pass over it."""
    assert {name for name, _ in CONFIGS} == {entry.name for entry in REGISTRY}


def test_a_state_dict_matches_only_its_own_signature(built: Built) -> None:
    state = _state(built)
    assert [entry.name for entry in REGISTRY if entry.signature.matches(state)] == [built[0].name]


def test_round_trip(built: Built, tmp_path: Path) -> None:
    architecture, config = built
    state = _state(built)
    assert detect(state, REGISTRY, where="here") is architecture
    assert config in architecture.variants(architecture.read_config(state))
    loaded = load_checkpoint(_save(tmp_path, state))
    for reading in loaded.readings:
        network = loaded.network(reading)
        assert not network.training
        assert all(torch.equal(tensor, state[key]) for key, tensor in network.state_dict().items())


@pytest.mark.parametrize("architecture", REGISTRY, ids=lambda entry: entry.name)
def test_the_default_is_read_back(architecture: Architecture[Any]) -> None:
    shapes = architecture.expected_shapes(architecture.default)
    state = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    assert architecture.read_config(state) == architecture.default
    assert architecture.variants(architecture.default)[0] == architecture.default


@pytest.mark.parametrize("change", ["missing", "unexpected", "shape", "integer"])
def test_a_changed_state_dict_is_explained(built: Built, change: str, tmp_path: Path) -> None:
    state = _state(built)
    key = list(state)[-1]
    if change == "missing":
        del state[key]
    elif change == "unexpected":
        state["extra.weight"] = torch.ones(1)
    elif change == "shape":
        state[key] = torch.ones(*state[key].shape, 2)
    else:
        state[key] = state[key].to(torch.int8)
    with pytest.raises(UnknownArchitectureError) as caught:
        load_checkpoint(_save(tmp_path, state))
    message = str(caught.value)
    assert f"nearest is {built[0].name}: " in message
    assert ("extra.weight" if change == "unexpected" else key) in message
    assert "\n" not in message


def test_a_scale_that_does_not_exist(tmp_path: Path) -> None:
    rfdn = REGISTRY[0]
    state = dict(rfdn.build(rfdn.default).state_dict())
    state["upsampler.0.weight"], state["upsampler.0.bias"] = torch.ones(47, 50, 3, 3), torch.ones(47)
    with pytest.raises(UnknownArchitectureError, match=r"'upsampler\.0\.weight' has 47 rows, expected 3 \* scale \* scale"):
        load_checkpoint(_save(tmp_path, state))


def test_the_nearest_is_counted() -> None:
    rfdn = REGISTRY[0]
    state = dict(rfdn.build(rfdn.default).state_dict())
    del state["B4.c5.weight"], state["B4.c5.bias"]
    with pytest.raises(UnknownArchitectureError, match=r"here: .*nearest is rfdn: 126 of 128 keys, missing 'B4\.c5\.weight'"):
        detect(state, REGISTRY, where="here")


def test_a_buffer_that_no_checkpoint_fills_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`to_empty` would leave whatever lies in memory there."""
    rfdn = REGISTRY[0]

    def build(config: Any) -> Network:
        network = rfdn.build(config)
        network.get_submodule("B1").register_buffer("mean", torch.zeros(3), persistent=False)
        return network

    path = _save(tmp_path, dict(rfdn.build(rfdn.default).state_dict()))
    twin = dataclasses.replace(rfdn, build=build)
    loaded = dataclasses.replace(load_checkpoint(path), architecture=twin)
    monkeypatch.setattr(architectures, "REGISTRY", (twin, *REGISTRY[1:]))
    for load in (lambda: load_checkpoint(path), lambda: loaded.network(loaded.readings[0])):
        with pytest.raises(CheckpointError, match=r"^rfdn: buffers.* not in its state dict: 'B1\.mean', .*persistent=True$"):
            load()


def test_two_matches_are_an_error() -> None:
    rfdn = REGISTRY[0]
    twin = dataclasses.replace(rfdn, name="twin")
    with pytest.raises(AmbiguousCheckpointError, match="rfdn, twin"):
        detect(rfdn.build(rfdn.default).state_dict(), (rfdn, twin), where="here")


def test_a_named_architecture_is_checked(tmp_path: Path) -> None:
    path = _save(tmp_path, dict(REGISTRY[0].build(REGISTRY[0].default).state_dict()))
    assert load_checkpoint(path, architecture="rfdn").architecture.name == "rfdn"
    with pytest.raises(UnknownArchitectureError, match=r"not rlfn: \d+ of 114 keys"):
        load_checkpoint(path, architecture="rlfn")
    for name, hint in (("rfdm", "did you mean 'rfdn'?"), ("RFDN", "did you mean 'rfdn'?"), ("zzz", "known: rfdn, rlfn, ")):
        with pytest.raises(UsageError, match=re.escape(f"unknown architecture '{name}'; {hint}")):
            load_checkpoint(path, architecture=name)


def test_readings_state_only_what_is_open(tmp_path: Path) -> None:
    by_name = {entry.name: entry for entry in REGISTRY}

    def assumed(name: str, **fields: Any) -> list[dict[str, Any]]:
        architecture = by_name[name]
        config = dataclasses.replace(architecture.default, **fields)
        path = _save(tmp_path, dict(architecture.build(config).state_dict()))
        return [reading.assumes for reading in load_checkpoint(path).readings]

    assert assumed("rlfn") == [{"value_range": 255.0}, {"value_range": 1.0}]
    assert assumed("rfdn") == [
        {"value_range": 255.0, "inner_skips": True},
        {"value_range": 1.0, "inner_skips": True},
        {"value_range": 255.0, "inner_skips": False},
        {"value_range": 1.0, "inner_skips": False},
    ]
    assert assumed("ecbsr") == [{"value_range": 1.0}, {"value_range": 255.0}]
    assert {str(reading) for reading in assumed("ecbsr", merged=False)} == {
        str({"value_range": value_range, "identity": identity}) for value_range in (1.0, 255.0) for identity in (True, False)
    }
    assert assumed("compact") == [{}]
    assert assumed("compact", activation="lrelu") == [{"activation": "relu"}, {"activation": "lrelu"}]
    assert {reading["scale"] for reading in assumed("pan", scale=2)} == {2, 3}
    assert assumed("pan", scale=4) == [{"value_range": 1.0}, {"value_range": 255.0}]
    assert assumed("msrn", blocks=1) == [{}]
    assert assumed("efdn") == [{}]
    assert [reading["branches"] for reading in assumed("efdn", merged=False)][:2] == ["plain", "expanded"]


def test_ours_are_recognized_and_all_others_refused(shared: Path) -> None:
    files = [path for path in (shared / "checkpoints").rglob("*") if path.is_file() and "must_refuse" not in path.parts]
    found = {}
    for path in sorted(files):
        if path.name == "RVSR_pretrained_lightning.ckpt":
            continue
        try:
            loaded = load_checkpoint(path)
        except UnknownArchitectureError as exc:
            assert "\n" not in str(exc)
            assert "nearest is" in str(exc) or "none is near" in str(exc)
            continue
        found[path.name] = loaded.architecture.name
        for reading in loaded.readings:
            loaded.network(reading)
    assert found == OURS


def test_the_pruned_rfdn_is_read_from_its_shapes(shared: Path) -> None:
    config = load_checkpoint(shared / "checkpoints" / "team40_rfdn_pruned.pth").readings[0].config
    assert dataclasses.asdict(config) == {
        "scale": 4, "colors": 3, "channels": 40, "distilled": 20, "esa": 12, "blocks": 4, "inner_skips": True,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("file", "nearest"),
    [
        ("team13_model2_rlfn_bn.pth", r"rlfn: 78 of 78 keys, unexpected 'block_1\.bn1\.weight'"),
        ("team38_rfdnext.pth", "rfdn: 72 of 128 keys"),
        ("team05_RLFN_mogai.pth", "rlfn: 60 of 96 keys"),
    ],
)
def test_relatives_are_explained(shared: Path, file: str, nearest: str) -> None:
    with pytest.raises(UnknownArchitectureError, match=f"nearest is {nearest}"):
        load_checkpoint(shared / "checkpoints" / file)
