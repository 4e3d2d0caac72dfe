"""Reading checkpoints: every form that is fine, and every refusal with its own reason."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any

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
    _assert_state(_save(tmp_path, STATE, _use_new_zipfile_serialization=False))


@pytest.mark.parametrize("wrapper", ["params_ema", "params", "state_dict", "model_state_dict", "model", "netG", "g", "net"])
def test_wrappers(tmp_path: Path, wrapper: str) -> None:
    _assert_state(_save(tmp_path, {"epoch": 3, wrapper: STATE, "optimizer": {"lr": 0.1}}), wrapper)


def test_averaged_weights_are_preferred(tmp_path: Path) -> None:
    zeros = {key: torch.zeros_like(value) for key, value in STATE.items()}
    _assert_state(_save(tmp_path, {"params": zeros, "params_ema": STATE}), "params_ema")


def test_nested_wrappers(tmp_path: Path) -> None:
    _assert_state(_save(tmp_path, {"model": {"params": _prefixed("module.")}}), "model.params")


@pytest.mark.parametrize("prefix", ["module.", "model.", "network.", "generator.", "_orig_mod.", "net.", "module._orig_mod."])
def test_prefixes(tmp_path: Path, prefix: str) -> None:
    _assert_state(_save(tmp_path, _prefixed(prefix)))


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
