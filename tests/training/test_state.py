"""States are written whole or not at all, and read back exactly."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch

from sr_deploy.architectures import read_checkpoint
from sr_deploy.errors import CheckpointError, UsageError
from sr_deploy.training.state import LogLine, TrainingState, alone, load_state, save_state

STATE = TrainingState(
    identity="abc",
    stage=1,
    step=20,
    seconds=3.5,
    losses=[0.25],
    params={"w": torch.rand(3)},
    params_ema={"w": torch.rand(3)},
    optimizer={"state": {0: {"step": torch.tensor(20.0)}}, "param_groups": [{"lr": 1e-3}]},
    log=(LogLine(10, 1, 1e-3, 0.1, 30.0, 0.9, 1.0),),
)


def test_a_state_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "é 漢字 state.pth"
    save_state(path, STATE)
    found = load_state(path, "abc")
    assert found is not None
    assert (found.stage, found.step, found.seconds, found.losses, found.log) == (1, 20, 3.5, [0.25], STATE.log)
    assert torch.equal(found.params["w"], STATE.params["w"])
    assert found.optimizer["state"][0]["step"] == 20
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_state_is_a_checkpoint_too(tmp_path: Path) -> None:
    save_state(tmp_path / "state.pth", STATE)
    checkpoint = read_checkpoint(tmp_path / "state.pth")
    assert checkpoint.wrapper == "params_ema"
    assert torch.equal(checkpoint.state["w"], STATE.params_ema["w"])


def test_no_file_is_no_state(tmp_path: Path) -> None:
    assert load_state(tmp_path / "state.pth", "abc") is None


def test_states_of_other_runs_and_damaged_ones_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.pth"
    save_state(path, STATE)
    with pytest.raises(UsageError, match="another recipe or other photos"):
        load_state(path, "abd")
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(CheckpointError, match="damaged"):
        load_state(path, "abc")
    torch.save({"format": 99}, path)
    with pytest.raises(CheckpointError, match="another version"):
        load_state(path, "abc")


def test_a_full_disk_leaves_the_last_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.pth"
    save_state(path, STATE)
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match=r"cannot be written \(No space left on device\); make room"):
        save_state(path, STATE)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_two_processes_do_not_share_a_folder(tmp_path: Path) -> None:
    with alone(tmp_path / "run"), pytest.raises(UsageError, match="another process trains into it"), alone(tmp_path / "run"):
        pass
    with alone(tmp_path / "run"):
        pass


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(CheckpointError, match="name another output folder"), alone(tmp_path / "run"):
        pass
