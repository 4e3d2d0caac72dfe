from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result

from sr_deploy.bundle import PROBE_FILE
from sr_deploy.card import Link
from sr_deploy.cli.verify import print_links

Invoke = Callable[..., Result]


def test_a_good_bundle(invoke: Invoke, bundle: Path) -> None:
    result = invoke("verify", bundle, "--backend", "openvino")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "openvino fp32" in result.stdout and "onnxruntime" not in result.stdout
    document = json.loads(invoke("verify", bundle, "--json").stdout)
    assert document["passed"] is True
    assert {link["target"] for link in document["links"]} >= {"openvino fp32", "onnxruntime fp32"}


def test_a_missed_floor_is_an_error(invoke: Invoke, bundle: Path) -> None:
    shutil.copytree(bundle, "other")
    with np.load(bundle / PROBE_FILE) as probe:
        np.savez(Path("other", PROBE_FILE), **{"ramp.input": probe["ramp.input"], "ramp.output": 1 - probe["ramp.output"]})
    result = invoke("verify", "other", "--backend", "openvino")
    assert result.exit_code == 1
    assert "FAILED" in result.stdout
    assert result.stderr.startswith("error: other: misses its floor in original -> openvino fp32 on ramp")
    assert json.loads(invoke("verify", "other", "--json").stdout)["passed"] is False


def test_without_a_probe(invoke: Invoke, bundle: Path) -> None:
    shutil.copytree(bundle, "other")
    Path("other", PROBE_FILE).unlink()
    result = invoke("verify", "other")
    assert (result.exit_code, "can verify itself" in result.stderr) == (1, True)
    assert invoke("verify", bundle, "--backend", "abacus").exit_code == 2
    assert invoke("verify", bundle, "--backend", "tensorrt-rtx").exit_code == 3


def test_nothing_to_compare_is_an_error(invoke: Invoke, bundle: Path, shared: Path) -> None:
    result = invoke("verify", shared / "faults" / "verify_empty", "--json")
    assert (result.exit_code, "holds no probe, so there is nothing to compare" in result.stderr) == (1, True)
    assert "passed" not in json.loads(result.stdout)
    shutil.copytree(bundle, "other")
    card = json.loads(Path("other/card.json").read_text(encoding="utf-8"))
    card["graphs"] = {}
    Path("other/card.json").write_text(json.dumps(card), encoding="utf-8")
    result = invoke("verify", "other")
    assert (result.exit_code, "nothing to compare" in result.stderr) == (1, True)


IMAGE, LARGE = np.zeros((1, 3, 4, 4), np.float32), np.zeros((1, 3, 8, 8), np.float32)


@pytest.mark.parametrize(
    "arrays",
    [
        {"a.input": IMAGE, "a.output": IMAGE},
        {"a.input": IMAGE[:, :1], "a.output": LARGE[:, :1]},
        {"a.input": IMAGE + 2, "a.output": LARGE},
        {"a.input": IMAGE + np.nan, "a.output": LARGE},
        {"a.input": IMAGE, "a.output": LARGE + np.inf},
        {"a.input": IMAGE.astype(np.int64), "a.output": LARGE},
        {"a.input": IMAGE[:, :, :0], "a.output": LARGE[:, :, :0]},
        {"a.input": IMAGE},
        {"a": IMAGE},
    ],
)
def test_probes_that_cannot_be_are_one_line(invoke: Invoke, bundle: Path, arrays: dict[str, np.ndarray]) -> None:
    shutil.copytree(bundle, "other")
    np.savez(Path("other", PROBE_FILE), **arrays)
    result = invoke("verify", "other", "--backend", "onnxruntime")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: other/probe.npz: ") and result.stderr.count("\n") == 1


@pytest.mark.parametrize("contents", [b"", b"PK\x05\x06" + bytes(18), b"nonsense", b"\x93NUMPY\x01\0"])
def test_probes_that_are_no_archive(invoke: Invoke, bundle: Path, contents: bytes) -> None:
    shutil.copytree(bundle, "other")
    Path("other", PROBE_FILE).write_bytes(contents)
    result = invoke("verify", "other", "--backend", "onnxruntime")
    assert (result.exit_code, "internal error" in result.stderr) == (1, False)


def test_the_table_shows_the_worst_probe_of_each_step(capsys: object) -> None:
    good = Link("original", "fp32", "small", 0.1, 0.01, 0.1, 90.0, "max <= 0.5 LSB")
    links = [good, dataclasses.replace(good, probe="odd", psnr=80.0), dataclasses.replace(good, probe="even", passed=False)]
    print_links(links)
    shown = capsys.readouterr().out  # type: ignore[attr-defined]
    assert "even" in shown and "FAILED" in shown and "odd" not in shown
    print_links(links, every=True)
    assert len(capsys.readouterr().out.splitlines()) == 5  # type: ignore[attr-defined]


def test_the_choice_of_patches_is_shown_where_there_is_one(capsys: object) -> None:
    image = Link("original", "fp16: image", "photo", 0.1, 0.01, 0.1, 90.0, "PSNR >= 50 dB", selected=90, moved=2)
    print_links([image, dataclasses.replace(image, target="fp16: coarse", selected=0, moved=0)])
    header, _, first, second = capsys.readouterr().out.splitlines()  # type: ignore[attr-defined]
    assert header.endswith("other patches")
    assert first.endswith("2 of 90") and second.endswith("-")
