"""The documents of --json: their keys are those of docs/cli.md, their text is UTF-8, and errors have one too."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result

from sr_deploy import cli
from sr_deploy.cli.output import SCHEMA, to_json
from sr_deploy.models import fetched_folder
from sr_deploy.pictures.image import Picture, write_image
from tests.cli.test_build import _fake_library, target
from tests.cli.test_export import calls
from tests.cli.test_train import RECIPE, recipe
from tests.cli.test_tune import QUICKLY
from tests.fetch.conftest import data, make_bundle, write_recipe
from tests.graphs import masked_bundle
from tests.upscaling.gpu.test_frames import Machine, _warp
from tests.upscaling.gpu.test_tune import machine
from tests.video.clips import Clips

__all__ = ["RECIPE", "_fake_library", "_warp", "calls", "data", "machine", "recipe", "target"]

Invoke = Callable[..., Result]
Keys = dict[str, set[str]]
DOCS = Path(__file__).parents[2] / "docs" / "cli.md"
PROGRAM = [sys.executable, "-c", "from sr_deploy.cli import main; main()"]


def documented() -> dict[str, Keys]:
    """By command, its keys in docs/cli.md, each with those of its entries."""
    section = DOCS.read_text(encoding="utf-8").partition("\n## JSON\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`\w+`.*?) \| (.+) \|$", section, re.M)
    keys = {
        command.replace("`", ""): {
            key: set(re.findall(r"`(\w+)`", entry)) for key, entry in re.findall(r"`(\w+)`(?: \((.*?)\))?", cell)
        }
        for command, cell in rows
    }
    assert len(keys) == len(rows)
    return keys


KEYS = documented()


def check(command: str, text: str) -> dict[str, Any]:
    """The document, once its keys are the documented ones, and every list of entries holds one at least."""
    document = json.loads(text)
    keys = KEYS[command]
    assert document.pop("schema") == SCHEMA == 1
    assert set(document) == set(keys)
    for key, names in keys.items():
        if names:
            assert document[key] and all(set(entry) == names for entry in document[key]), key
    assert not re.search(r"\d\.\d{12}", text)
    return dict(document)


def test_every_command_has_its_keys_in_the_docs() -> None:
    assert {name.partition(",")[0] for name in KEYS} == set(cli.COMMANDS)


def test_upscale(invoke: Invoke, bundle: Path, tmp_path: Path) -> None:
    for folder in ("in", "clips"):
        Path(folder).mkdir()
    Clips(tmp_path / "clips")["cfr_mkv"].rename("in/film.mkv")
    write_image(Path("in/a.png"), Picture(np.full((9, 16, 3), 9, np.uint8)))
    write_image(Path("in/b.png"), Picture(np.full((9, 16, 3), 9, np.uint8)))
    Path("in/bad.png").write_bytes(b"no picture")
    assert invoke("upscale", "in/b.png", "-m", bundle, "-o", "out/").exit_code == 0
    Path("in/a.bmp").write_bytes(b"no picture either")
    result = invoke("upscale", "in", "-m", bundle, "-o", "out", "--preset", "ultrafast", "--json")
    document = check("upscale", result.stdout)
    assert [(entry["input"], entry["output"]) for entry in document["done"]] == [
        ("in/a.png", "out/a.png"),
        ("in/film.mkv", "out/film.mkv"),
    ]
    assert document["skipped"] == [{"input": "in/b.png", "output": "out/b.png"}]
    assert {entry["input"] for entry in document["failed"]} == {"in/a.bmp", "in/bad.png"}
    assert document["videos"][0]["input"] == "in/film.mkv" and document["videos"][0]["seconds"] > 0


@pytest.mark.parametrize(
    "arguments",
    [["models"], ["doctor"], ["architectures"], ["verify", "fast"], ["bench", "fast", "--size", "8x8", "--runs", "1"]],
)
def test_commands_that_need_no_more_than_the_box(invoke: Invoke, arguments: list[str]) -> None:
    check(arguments[0], invoke(*arguments, "--json").stdout)


def test_plan_segment_and_join(invoke: Invoke, bundle: Path, tmp_path: Path) -> None:
    Path("in").mkdir()
    Clips(tmp_path)["cfr_mkv"].rename("in/film.mkv")
    Path("in/bad.mkv").write_bytes(b"no video")
    document = check("plan", invoke("plan", "in", "-m", bundle, "-o", "out", "--preset", "ultrafast", "--json").stdout)
    assert document["videos"][0]["plan"] == "out/film.mkv.part/plan.json"
    (segment,) = check("segment", invoke("segment", "out/film.mkv.part", "--json").stdout)["segments"]
    assert segment["index"] == 0
    assert check("join", invoke("join", "out/film.mkv.part", "--json").stdout)["frames"] == segment["frames"]


@pytest.mark.usefixtures("data")
def test_fetch(invoke: Invoke, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "tiny.toml", b"weights")
    made = make_bundle(fetched_folder("tiny"), b"weights").folder
    document = check("fetch", invoke("fetch", recipe, "--json").stdout)
    assert (document["network"], document["bundle"], document["new"]) == ("tiny", str(made), False)


@pytest.mark.usefixtures("calls")
def test_export_and_inspect(invoke: Invoke, bundle: Path) -> None:
    assert check("export", invoke("export", "net.pth", "--json").stdout)["network"] == "double"
    assert check("inspect, a bundle", invoke("inspect", bundle, "--json").stdout)["network"] == "double"
    graph = invoke("inspect", bundle / "fp32.onnx", "--json").stdout
    assert check("inspect, an ONNX file", graph)["network"] == "fp32"


@pytest.mark.usefixtures("_fake_library")
def test_engines(invoke: Invoke, bundle: Path, target: Path) -> None:
    (built,) = check("build", invoke("build", bundle, "--target", target, "--json").stdout)["engines"]
    (listed,) = check("engines", invoke("engines", "--json").stdout)["engines"]
    assert listed["record"] == built["record"] and built["record"]["network"] == "double"
    assert check("inspect, an engine", invoke("inspect", built["path"], "--json").stdout)["network"] == "double"


def test_repository(invoke: Invoke, bundle: Path) -> None:
    document = check("repository", invoke("repository", bundle, "-o", "served", "--for", "triton", "--json").stdout)
    (network,) = document["networks"]
    assert (document["repository"], network["network"], network["file"]) == ("served", "double", "model.onnx")


def test_evaluate(invoke: Invoke, bundle: Path) -> None:
    Path("hr").mkdir()
    write_image(Path("hr/a.png"), Picture(np.indices((32, 48)).sum(0, dtype=np.uint8)[..., None].repeat(3, 2)))
    common = ("--hr", "hr", "--backend", "onnxruntime", "--precision", "fp32", "--json")
    (result,) = check("evaluate", invoke("evaluate", bundle, *common).stdout)["results"]
    assert result["network"] == "double"
    Path("masked").mkdir()
    masked_bundle(Path("masked"))
    document = check("evaluate, over shares", invoke("evaluate", "masked", *common, "--shares", "50").stdout)
    assert document["networks"][0]["bundle"] == "masked"


def test_compare(invoke: Invoke) -> None:
    for name in ("a", "b"):
        write_image(Path(f"{name}.png"), Picture(np.full((9, 16, 3), 9, np.uint8)))
    (scene,) = check("compare", invoke("compare", "a.png", "b.png", "--json").stdout)["scenes"]
    assert [one["label"] for one in scene["versions"]] == ["a.png", "b.png"]


def test_tune(invoke: Invoke, bundle: Path, machine: Machine) -> None:
    del machine
    assert check("tune", invoke("tune", bundle, *QUICKLY, "--json").stdout)["network"] == "double"


@pytest.mark.long
def test_train_and_its_checkpoint(invoke: Invoke, recipe: Path) -> None:
    result = subprocess.run([*PROGRAM, "train", recipe, "--json"], capture_output=True, text=True, check=True)
    document = check("train", result.stdout)
    assert document["network"] == "tiny"
    check("inspect, a checkpoint", invoke("inspect", document["checkpoint"], "--json").stdout)


@pytest.mark.parametrize(
    ("arguments", "kind", "code"),
    [
        (["inspect", "gone", "--json"], "UsageError", 2),
        (["upscale", "--json"], "UsageError", 2),
        (["models", "--json", "--nonsense"], "UsageError", 2),
        (["bench", "--json"], "UsageError", 2),
        (["enlarge", "--json"], "UsageError", 2),
        (["verify", "folder", "--json"], "BundleError", 1),
        (["tune", "fast", "--backend", "tensorrt", "--json"], "BackendUnavailableError", 3),
    ],
)
def test_an_error_is_a_document_too(
    invoke: Invoke, arguments: list[str], kind: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sr_deploy.device import gpu
    from sr_deploy.device.gpu import Survey

    monkeypatch.setattr(gpu, "survey", lambda: Survey(problem="no driver", remedy="install it"))
    Path("folder").mkdir()
    plain, result = invoke(*(word for word in arguments if word != "--json")), invoke(*arguments)
    assert plain.exit_code == result.exit_code == code
    assert (plain.stdout == "" or arguments[0] == "models") and result.stderr.splitlines()[-1] == plain.stderr.splitlines()[-1]
    document = json.loads(result.stdout)
    message = document["error"].pop("message")
    assert document == {"schema": 1, "error": {"type": kind, "exit_code": code}}
    assert message and message.splitlines()[0] in result.stderr


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_tells_wrong_usage_in_a_document(invoke: Invoke, command: str) -> None:
    result = invoke(command, "--json", "--nonsense")
    error = json.loads(result.stdout)["error"]
    assert (result.exit_code, error["exit_code"], error["type"]) == (2, 2, "UsageError")
    assert "--nonsense" in error["message"]


@pytest.mark.parametrize(
    "arguments",
    [
        *([command] for command in ("export", "inspect", "verify", "bench", "build", "train", "engines")),
        ["evaluate", "fast", "--hr"],
        ["repository", "-o", "served", "--for", "triton"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("name", ["é 漢字 [x] 'q'.png", os.fsdecode(b"caf\xe9 \xff.png")], ids=["odd", "not UTF-8"])
def test_an_error_names_the_file_whatever_its_name(invoke: Invoke, arguments: list[str], name: str) -> None:
    result = invoke(*arguments, name, "--json")
    assert result.exit_code in (1, 2)
    document = json.loads(result.stdout_bytes.decode("utf-8"))
    assert document["schema"] == 1 and document["error"]["exit_code"] == result.exit_code
    assert name.encode("utf-8", "surrogateescape").decode("utf-8", "replace") in document["error"]["message"]


def test_no_second_document_after_the_command_s_own(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    from sr_deploy.cli import doctor

    monkeypatch.setattr(doctor, "_problem", lambda *_: "nothing works")
    result = invoke("doctor", "--json")
    assert result.exit_code == 3 and result.stderr == "error: nothing works\n"
    assert json.loads(result.stdout)["problem"] == "nothing works"


def test_the_value_of_json_behind_two_dashes_is_an_input(invoke: Invoke) -> None:
    result = invoke("inspect", "--", "--json")
    assert (result.exit_code, result.stdout) == (2, "")


def test_numbers_and_text() -> None:
    text = to_json(
        {"psnr": 100 / 3, "small": 1e-9 / 3, "count": 10**12, "equal": float("inf"), "none": float("nan"), "é": "\udcff"}
    )
    assert json.loads(text.decode("utf-8")) == {
        "psnr": 33.3333,
        "small": 3.33333e-10,
        "count": 10**12,
        "equal": 999.0,
        "none": None,
        "é": "\ufffd",
    }


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere file names are text")
def test_names_that_are_not_utf_8(bundle: Path) -> None:
    source, made = b"caf\xe9.png", b"out/caf\xe9.png"
    write_image(Path("a.png"), Picture(np.zeros((4, 4, 3), np.uint8)))
    os.rename(b"a.png", source)  # noqa: PTH104
    command = [*PROGRAM, "upscale", source, "-m", bundle, "-o", "out/"]
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    plain = subprocess.run(command, capture_output=True, check=True, env=environment)
    assert plain.stdout == made + b"\n" and os.path.exists(made)  # noqa: PTH110
    events = [*command, "--overwrite", "--json", "--progress", "json"]
    result = subprocess.run(events, capture_output=True, check=True, env=environment)
    (done,) = json.loads(result.stdout.decode("utf-8"))["done"]
    assert (done["input"], done["output"]) == ("caf\ufffd.png", "out/caf\ufffd.png")
    told = [json.loads(line) for line in result.stderr.decode("utf-8").splitlines()]
    assert [event["output"] for event in told if event["event"] == "file"] == ["out/caf\ufffd.png"]


def test_the_shell_completes_as_the_docs_say() -> None:
    shells = re.findall(r"_SR_DEPLOY_COMPLETE=(\w+)_source sr-deploy", DOCS.read_text(encoding="utf-8"))
    assert shells == ["bash", "zsh", "fish"]
    for words, expected in (("sr-deploy ups", b"plain,upscale\n"), ("sr-deploy upscale --strip", b"plain,--strip-metadata\n")):
        asked = {"_SR_DEPLOY_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        result = subprocess.run(PROGRAM, capture_output=True, check=True, env={**os.environ, **asked})
        assert result.stdout == expected
    asked = {"_SR_DEPLOY_COMPLETE": "bash_complete", "COMP_WORDS": "sr-deploy upscale -m qual", "COMP_CWORD": "3"}
    result = subprocess.run(PROGRAM, capture_output=True, check=True, env={**os.environ, **asked})
    lines = result.stdout.decode("utf-8").splitlines()
    assert lines == ["plain,quality-small", "plain,quality-small-x2", "plain,quality-small-x4", "file,qual"]
    for shell in shells[1:]:  # click asks bash for its version
        asked = {"_SR_DEPLOY_COMPLETE": f"{shell}_source"}
        result = subprocess.run(PROGRAM, capture_output=True, check=True, env={**os.environ, **asked})
        assert b"sr-deploy" in result.stdout and b"_SR_DEPLOY_COMPLETE" in result.stdout
