"""Reading checkpoints: every form that is fine, and every refusal with its own reason."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from sr_deploy.architectures import read_checkpoint
from sr_deploy.errors import CheckpointError

STATE = {"conv.weight": torch.arange(54.0).reshape(2, 3, 3, 3), "conv.bias": torch.tensor([0.5, -1.0])}


def _save(folder: Path, content: Any, **options: Any) -> Path:
    path = folder / "weights.pth"
    torch.save(content, path, **options)
    return path


def _prefixed(prefix: str) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in STATE.items()}


def _assert_state(path: Path, wrapper: str = "") -> None:
    checkpoint = read_checkpoint(path)
    assert checkpoint.wrapper == wrapper
    assert list(checkpoint.state) == list(STATE)
    assert all(torch.equal(checkpoint.state[key], STATE[key]) for key in STATE)


def test_bare_state_dict(tmp_path: Path) -> None:
    path = _save(tmp_path, STATE)
    _assert_state(path)
    assert read_checkpoint(path).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_older_file_format(tmp_path: Path) -> None:
    path = _save(tmp_path, STATE, _use_new_zipfile_serialization=False)
    _assert_state(path)
    path.write_bytes(path.read_bytes() + b"of another")
    with pytest.raises(CheckpointError, match="10 bytes stand behind its last weight"):
        read_checkpoint(path)


@pytest.mark.parametrize("wrapper", ["params_ema", "params", "state_dict", "model_state_dict", "model", "netG", "g", "net"])
def test_wrappers(tmp_path: Path, wrapper: str) -> None:
    _assert_state(_save(tmp_path, {"epoch": 3, wrapper: STATE, "optimizer": {"lr": 0.1}}), wrapper)


def test_averaged_weights_are_preferred(tmp_path: Path) -> None:
    zeros = {key: torch.zeros_like(value) for key, value in STATE.items()}
    _assert_state(_save(tmp_path, {"params": zeros, "params_ema": STATE}), "params_ema")


@pytest.mark.parametrize("prefix", ["", "module."])
def test_the_name_of_a_sequential_is_no_prefix(tmp_path: Path, prefix: str) -> None:
    keys = ("model.0.weight", "model.1.sub.0.weight")
    state = read_checkpoint(_save(tmp_path, {f"{prefix}{key}": torch.ones(2) for key in keys})).state
    assert tuple(state) == keys


def test_nested_wrappers(tmp_path: Path) -> None:
    _assert_state(_save(tmp_path, {"model": {"params": _prefixed("module.")}}), "model.params")


@pytest.mark.parametrize("prefix", ["module.", "model.", "network.", "generator.", "_orig_mod.", "net.", "module._orig_mod."])
def test_prefixes(tmp_path: Path, prefix: str) -> None:
    _assert_state(_save(tmp_path, _prefixed(prefix)))


@pytest.mark.parametrize(
    ("averaged", "plain"),
    [
        ("params-ema", "params"),
        ("ema_state_dict", "state_dict"),
        ("state_dict_ema", "state_dict"),
        ("model_ema", "model"),
        ("generator_ema", "generator"),
        ("netG_ema", "netG"),
        ("g_ema", "g"),
        ("ema", "model"),
        ("swa_model", "model"),
        ("EMA", "net"),
    ],
)
@pytest.mark.parametrize("plain_first", [False, True])
def test_averaged_weights_are_known_by_their_usual_names(tmp_path: Path, averaged: str, plain: str, plain_first: bool) -> None:
    zeros = {key: torch.zeros_like(value) for key, value in STATE.items()}
    content = {plain: zeros, averaged: STATE} if plain_first else {averaged: STATE, plain: zeros}
    path = _save(tmp_path, content)
    _assert_state(path, averaged)
    assert read_checkpoint(path).left == (plain,)


def test_an_average_without_names_is_not_taken(tmp_path: Path) -> None:
    """torch_ema keeps a list; the plain weights are the ones that can be used."""
    content = {"ema": {"decay": 0.999, "shadow_params": list(STATE.values())}, "model": STATE}
    _assert_state(_save(tmp_path, content), "model")


@pytest.mark.parametrize(
    ("prefix", "others", "left"),
    [
        ("net_g.", {"net_d.conv.weight": torch.zeros(1)}, ("net_d",)),
        ("netG.", {"netD.conv.weight": torch.zeros(1)}, ("netD",)),
        ("generator.", {"discriminator.a": torch.zeros(1), "perceptual_loss.vgg.b": torch.zeros(1)}, None),
        ("generator_ema.", {"generator.conv.bias": torch.zeros(2), "step_counter": torch.zeros(1)}, None),
        ("module.", {"n_averaged": torch.tensor(3)}, ("n_averaged",)),
        ("module.model.", {"n_averaged": torch.tensor(3)}, ("n_averaged",)),
        ("ema_model.module.", {"online_model.conv.bias": torch.zeros(2), "initted": torch.tensor(True)}, None),
    ],
)
def test_the_network_in_the_state_dict_of_its_trainer(
    tmp_path: Path, prefix: str, others: dict[str, Tensor], left: tuple[str, ...] | None
) -> None:
    path = _save(tmp_path, {"state_dict": {**others, **_prefixed(prefix)}})
    checkpoint = read_checkpoint(path)
    assert checkpoint.state.keys() == STATE.keys()
    assert all(torch.equal(checkpoint.state[key], STATE[key]) for key in STATE)
    assert left is None or checkpoint.left == left


@pytest.mark.parametrize(
    ("file", "wrapper", "left"),
    [
        ("ck_params_and_params-ema.pth", "params-ema", ("params",)),
        ("ck_state_dict_and_ema.pth", "ema_state_dict", ("state_dict",)),
        ("ck_netg_netd.pth", "net_g", ("net_d",)),
    ],
)
def test_wrappers_that_were_read_wrong(shared: Path, file: str, wrapper: str, left: tuple[str, ...]) -> None:
    checkpoint = read_checkpoint(shared / "faults" / file)
    assert (checkpoint.wrapper, checkpoint.left) == (wrapper, left)
    assert "backbone.0.0.weight" in checkpoint.state


def test_prefix_of_some_keys_stays(tmp_path: Path) -> None:
    path = _save(tmp_path, {"module.a": torch.ones(1), "b": torch.ones(1)})
    assert list(read_checkpoint(path).state) == ["module.a", "b"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_become_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    path = _save(tmp_path, {key: value.to(dtype) for key, value in STATE.items()})
    _assert_state(path)
    assert {tensor.dtype for tensor in read_checkpoint(path).state.values()} == {torch.float32}


def test_integer_buffers_stay(tmp_path: Path) -> None:
    path = _save(tmp_path, {**STATE, "bn.num_batches_tracked": torch.tensor(7)})
    assert read_checkpoint(path).state["bn.num_batches_tracked"].dtype == torch.int64


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth"])
def test_safetensors_by_content(tmp_path: Path, name: str) -> None:
    save_file(STATE, tmp_path / name)
    checkpoint = read_checkpoint(tmp_path / name)
    assert {key: torch.equal(checkpoint.state[key], STATE[key]) for key in STATE} == dict.fromkeys(STATE, True)


@pytest.mark.long
def test_only_safetensors_files_need_safetensors(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "weights.pth")
    save_file(STATE, tmp_path / "weights.safetensors")
    code = (
        "import sys; sys.modules['safetensors'] = None; from pathlib import Path; "
        "from sr_deploy.architectures.checkpoint import read_checkpoint; print(len(read_checkpoint(Path(sys.argv[1])).state))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run([*command, tmp_path / "weights.pth"], capture_output=True, text=True, check=True)
    assert int(done.stdout) == len(STATE)
    failed = subprocess.run([*command, tmp_path / "weights.safetensors"], capture_output=True, text=True, check=False)
    assert "MissingDependencyError" in failed.stderr and "pip install safetensors" in failed.stderr


def test_torch_file_named_safetensors(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "weights.safetensors")
    _assert_state(tmp_path / "weights.safetensors")


def test_truncated_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(STATE, path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(CheckpointError, match=r"not a complete safetensors file .* again"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        ("must_refuse/empty.pth", r"empty \(0 bytes\); download"),
        ("must_refuse/lfs_pointer.pth", r"Git LFS pointer.*`git lfs pull`"),
        ("must_refuse/html_error_page.pth", r"web page.*download the file itself again"),
        ("must_refuse/truncated.pth", r"cut off or damaged.*again"),
        ("must_refuse/model_RFDN_pickled_module.pth", r"whole pickled nn\.Module .*RFDN.*torch\.save\(model\.state_dict\(\)"),
        ("training_form/RVSR_pretrained_lightning.ckpt", r"pickled objects.*torch\.optim\.adam\.Adam.*model\.state_dict\(\)"),
    ],
)
def test_published_files_that_must_be_refused(shared: Path, file: str, reason: str) -> None:
    with pytest.raises(CheckpointError, match=reason):
        read_checkpoint(shared / "checkpoints" / file)


def test_must_refuse_is_complete(shared: Path) -> None:
    for path in (shared / "checkpoints" / "must_refuse").iterdir():
        with pytest.raises(CheckpointError):
            read_checkpoint(path)


def test_a_folder_and_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="a folder"):
        read_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="no such file"):
        read_checkpoint(tmp_path / "absent.pth")


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(CheckpointError, match=r"Permission denied.*permissions"):
        read_checkpoint(tmp_path / "weights.pth")


def test_pickled_module_of_the_older_format(tmp_path: Path) -> None:
    path = _save(tmp_path, nn.Linear(2, 2), _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match=r"whole pickled nn\.Module \(torch\.nn\.modules\.linear\.Linear\)"):
        read_checkpoint(path)


class _Payload:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


@pytest.mark.parametrize("modern", [True, False])
def test_pickled_code_never_runs(tmp_path: Path, modern: bool) -> None:
    path = _save(tmp_path, {"state_dict": STATE, "x": _Payload(tmp_path / "ran")}, _use_new_zipfile_serialization=modern)
    with pytest.raises(CheckpointError, match="pickled objects beside the weights"):
        read_checkpoint(path)
    assert not (tmp_path / "ran").exists()


def test_torchscript(tmp_path: Path) -> None:
    path = tmp_path / "script.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(nn.ReLU(), torch.ones(1)), path)
    with pytest.raises(CheckpointError, match=r"TorchScript.*model\.state_dict\(\)"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("member", "reason"), [("weights/models/model.json", "torch.export program"), ("notes.txt", "zip archive without weights")]
)
def test_other_archives(tmp_path: Path, member: str, reason: str) -> None:
    path = tmp_path / "weights.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, "{}")
    with pytest.raises(CheckpointError, match=reason):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (torch.ones(2), "holds a Tensor"),
        ({}, "holds an empty dict"),
        ({"state_dict": {}}, "an empty dict under 'state_dict'"),
        ({"epoch": 3, "weights": {"a": torch.ones(1)}}, "no weights found among its keys 'epoch', 'weights'"),
        ({"a": torch.tensor([1.0, float("nan")])}, "'a' holds NaN or Inf"),
        ({"a": torch.tensor([1.0, -3.3e38])}, r"damaged, 'a' holds 3.3e\+38"),
        ({"a": torch.ones(2).to_sparse()}, "'a' is quantized or sparse"),
    ],
)
def test_files_without_usable_weights(tmp_path: Path, content: Any, reason: str) -> None:
    with pytest.raises(CheckpointError, match=reason):
        read_checkpoint(_save(tmp_path, content))


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.pth", b'{"message": "Not Found"}', "JSON"),
        ("a.pth", b"\x80\x02nonsense", "PyTorch checkpoint"),
        ("a.onnx", b"\x08\x0a\x12\x07pytorch", "ONNX graph"),
    ],
)
def test_other_files(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=reason):
        read_checkpoint(tmp_path / name)


@pytest.mark.parametrize(
    ("file", "reason"),
    [("expand_8G.pth", "its tensors claim 8192 MiB"), ("selfref.pth", "holds itself under 'state_dict'")],
)
def test_claims_are_refused_before_they_cost_memory(shared: Path, file: str, reason: str) -> None:
    with pytest.raises(CheckpointError, match=reason):
        read_checkpoint(shared / "faults" / file)


def test_many_views_of_one_storage_are_counted(tmp_path: Path) -> None:
    once = torch.ones(1 << 20)
    path = _save(tmp_path, {f"w{index}": once.expand(40, -1) for index in range(3)})
    with pytest.raises(CheckpointError, match="its tensors claim 480 MiB, but it holds 4096 KiB"):
        read_checkpoint(path)


def test_a_small_expanded_tensor_is_fine(tmp_path: Path) -> None:
    path = _save(tmp_path, {"mean": torch.tensor([0.5]).expand(1, 3, 1, 1)})
    assert read_checkpoint(path).state["mean"].shape == (1, 3, 1, 1)


@pytest.mark.parametrize("name", ["bomb.pth", "bomb.pt"])
def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / name, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", bytes(70 << 20))
    with pytest.raises(CheckpointError, match="that unpack to 70 MiB"):
        read_checkpoint(tmp_path / name)


def test_wrappers_that_hold_each_other_many_times(tmp_path: Path) -> None:
    """Read naively, the way down doubles at every step."""
    inner: dict[str, Any] = {"x": 1}
    for _ in range(40):
        inner = {"a": inner, "b": inner}
    with pytest.raises(CheckpointError, match="no weights found"):
        read_checkpoint(_save(tmp_path, {"model": inner}))


@pytest.mark.parametrize("modern", [True, False])
def test_storages_that_claim_more_than_there_is(tmp_path: Path, modern: bool) -> None:
    path = _save(tmp_path, {"a": torch.ones(77)}, _use_new_zipfile_serialization=modern)
    content = path.read_bytes()
    assert content.count(b"K\x4d") >= 1
    path.write_bytes(content.replace(b"K\x4d", b"K\xff"))
    with pytest.raises(CheckpointError):
        read_checkpoint(path)


@pytest.mark.parametrize(
    "content",
    [
        {"a": torch.empty(3, device="meta")},
        {"a": torch.ones(2, dtype=torch.complex64), 3: 4, "b": "c"},
    ],
)
def test_tensors_that_are_no_weights(tmp_path: Path, content: Any) -> None:
    try:
        state = read_checkpoint(_save(tmp_path, content)).state
    except CheckpointError:
        return
    assert all(isinstance(tensor, Tensor) and not tensor.is_meta for tensor in state.values())


def test_a_photo_is_told_for_what_it_is(shared: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"not a network, but a PNG picture; `sr-deploy upscale` takes it"):
        read_checkpoint(shared / "faults" / "dpi300.png")
    (tmp_path / "net.pth").write_bytes((shared / "faults" / "exif6_thumb.jpg").read_bytes())
    with pytest.raises(CheckpointError, match="a JPEG picture"):
        read_checkpoint(tmp_path / "net.pth")


def test_weights_that_do_not_fit_their_checksum(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    torch.save({"conv.weight": torch.full((64,), 0.1), "conv.bias": torch.zeros(4)}, path)
    data = bytearray(path.read_bytes())
    data[data.index(np.full(64, 0.1, np.float32).tobytes()) + 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"damaged \(wrong checksum of net/data/0\); download or copy it again"):
        read_checkpoint(path)


def test_weights_without_checksums(tmp_path: Path) -> None:
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"conv.weight": torch.full((64,), 0.1)}, tmp_path / "net.pth")
    finally:
        torch.serialization.set_crc32_options(before)
    assert read_checkpoint(tmp_path / "net.pth").state.keys() == {"conv.weight"}


def test_a_zip_directory_of_nonsense_is_our_error(tmp_path: Path) -> None:
    """The flag that says UTF-8, on a name that is not."""
    path = tmp_path / "odd.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("é/data.pkl", b"x")
    path.write_bytes(path.read_bytes().replace("é".encode(), b"\xff\xfe"))
    with pytest.raises(CheckpointError, match="zip directory is missing or damaged"):
        read_checkpoint(path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), modern=st.booleans())
def test_damage_is_always_our_error(tmp_path: Path, data: st.DataObject, modern: bool) -> None:
    path = _save(tmp_path, STATE, _use_new_zipfile_serialization=modern)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        read_checkpoint(path)
    except CheckpointError as exc:
        assert str(path) in str(exc)
