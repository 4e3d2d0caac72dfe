from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from sr_deploy.device import gpu
from sr_deploy.device.gpu import Survey
from tests.upscaling.gpu.test_frames import Machine, _warp
from tests.upscaling.gpu.test_tune import machine

__all__ = ["_warp", "machine"]

Invoke = Callable[..., Result]
QUICKLY = ("--backend", "machine", "--size", "300x280", "--seconds", "0.001")


@pytest.mark.usefixtures("machine")
def test_a_table_with_the_chosen_one_and_where_it_is_kept(invoke: Invoke, bundle: Path) -> None:
    result = invoke("tune", bundle, *QUICKLY)
    assert result.exit_code == 0, result.stderr
    header, _, *rows, path = result.stdout.splitlines()
    assert header.split() == ["tile", "batch", "frames", "in", "flight", "frames/s", "note"]
    assert [row.startswith("*") for row in rows].count(True) == 1
    assert Path(path).is_file()
    assert len(result.stderr.splitlines()) == len(rows)


def test_json(invoke: Invoke, bundle: Path, machine: Machine) -> None:
    result = invoke("tune", bundle, *QUICKLY, "-g", "1,0", "--json")
    document = json.loads(result.stdout)
    assert (document["size"], document["gpus"]) == ([300, 280], [1, 0])
    assert document["best"] in document["measurements"]
    assert Path(document["path"]).is_file()
    assert {number for number, _, _ in machine.runs} == {0, 1}


def test_without_a_gpu(invoke: Invoke, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "survey", lambda: Survey(problem="no driver", remedy="install it"))
    result = invoke("tune", bundle)
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr == "error: there is no GPU to tune for: no driver; install it\n"


@pytest.mark.usefixtures("machine")
def test_a_gpu_that_is_not_there(invoke: Invoke, bundle: Path) -> None:
    result = invoke("tune", bundle, "-g", "7")
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr == "error: there is no GPU 7 on this machine; expected 0 (one), 1 (two)\n"


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(
    "options",
    [("-g", "a"), ("-g", ""), ("-g", "-1"), ("-g", "0,0"), ("--size", "0x5"), ("--backend", "onnxruntime"), ("--seconds", "0")],
)
def test_wrong_usage(invoke: Invoke, bundle: Path, options: tuple[str, ...]) -> None:
    assert invoke("tune", bundle, *options).exit_code == 2
