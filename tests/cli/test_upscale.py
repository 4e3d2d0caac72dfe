from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from click.testing import Result
from PIL import Image

from sr_deploy.card import GRAPH_METADATA_KEY, ModelCard
from sr_deploy.device.gpu import GPU, Survey
from sr_deploy.pictures.image import Picture, read_image, write_image
from tests.graphs import image_graph, masked_bundle, save

Invoke = Callable[..., Result]
TARGETS = Path(__file__).parents[2] / "engines"
PROGRAM = [sys.executable, "-c", "from sr_deploy.cli import main; main()"]


def test_one_file(invoke: Invoke, bundle: Path, pictures: list[Path]) -> None:
    result = invoke("upscale", pictures[0], "-m", bundle)
    assert (result.exit_code, result.stdout) == (0, "in/a_double_x2.png\n")
    lines = result.stderr.splitlines()
    assert re.fullmatch(r"double on openvino \w+", lines[0])
    assert re.fullmatch(r"\[1/1\] in/a\.png -> in/a_double_x2\.png, [\d.]+ s", lines[1])
    assert re.fullmatch(r"1 done in [\d.]+ s", lines[2])
    small, large = read_image(pictures[0]).pixels, read_image(Path("in/a_double_x2.png")).pixels
    assert np.array_equal(large, small.repeat(2, 0).repeat(2, 1))


def test_a_network_that_restores_keeps_the_size(invoke: Invoke, pictures: list[Path], tmp_path: Path) -> None:
    result = invoke("upscale", pictures[0], "-m", save(image_graph(scale=1), tmp_path, "restore.onnx"))
    assert (result.exit_code, result.stdout) == (0, "in/a_restore_x1.png\n"), result.stderr
    assert read_image(Path("in/a_restore_x1.png")).pixels.shape == read_image(pictures[0]).pixels.shape


def test_a_folder_and_once_more(invoke: Invoke, bundle: Path, pictures: list[Path]) -> None:
    result = invoke("upscale", "in", "-m", bundle, "-o", "out")
    targets = [Path("out") / path.relative_to("in") for path in pictures]
    assert (result.exit_code, result.stdout.splitlines()) == (0, [str(path) for path in targets])
    assert re.search(r"4 done in [\d.]+ s \(reading [\d.]+ s, upscaling [\d.]+ s, writing [\d.]+ s\)", result.stderr)
    assert [read_image(path).pixels.shape for path in targets] == [(40, 60, 3)] * 4

    again = invoke("upscale", "in", "-m", bundle, "-o", "out")
    assert (again.exit_code, again.stdout) == (0, "")
    assert "skipped: out/a.png exists already; --overwrite makes it again" in again.stderr
    assert "0 done, 4 skipped in" in again.stderr
    assert invoke("upscale", "in", "-m", bundle, "-o", "out", "--overwrite").stdout == result.stdout


def test_a_bad_file_is_told_once_and_the_rest_is_done(invoke: Invoke, bundle: Path, pictures: list[Path]) -> None:
    Path("in/bad.png").write_bytes(b"no picture")
    result = invoke("upscale", "in", "gone.png", "film.mp4", "-m", bundle, "-o", "out")
    assert result.exit_code == 1
    assert len(result.stdout.splitlines()) == len(pictures)
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert [line.split(": ")[1] for line in errors] == ["gone.png", "film.mp4", "in/bad.png"]
    assert "4 done, 3 failed in" in result.stderr


def test_inputs_as_options(invoke: Invoke, bundle: Path, pictures: list[Path]) -> None:
    result = invoke("upscale", "-i", pictures[0], "--input", pictures[1], "-m", bundle, "-o", "out")
    assert result.stdout.splitlines() == ["out/a.png", "out/b.jpg"]


@pytest.mark.parametrize(
    ("arguments", "name", "shape"),
    [
        (["-s", "3"], "a_double_x3.png", (60, 90, 3)),
        (["-s", "0.5"], "a_double_x0.5.png", (10, 15, 3)),
        (["--to", "long=100"], "a_double_long100.png", (67, 100, 3)),
        (["--to", "45x45", "--suffix", "-new"], "a-new.png", (30, 45, 3)),
        (["-f", "webp"], "a_double_x2.webp", (40, 60, 3)),
        (["-t", "32", "--precision", "fp32", "--threads", "1", "--memory", "200"], "a_double_x2.png", (40, 60, 3)),
        (["-t", "0", "--fp32", "--backend", "onnxruntime"], "a_double_x2.png", (40, 60, 3)),
    ],
)
def test_options(
    invoke: Invoke, bundle: Path, pictures: list[Path], arguments: list[str], name: str, shape: tuple[int]
) -> None:
    result = invoke("upscale", pictures[0], "-m", bundle, *arguments)
    assert (result.exit_code, result.stdout) == (0, f"in/{name}\n"), result.stderr
    assert read_image(Path("in") / name).pixels.shape == shape


def test_a_named_file_and_named_folders(invoke: Invoke, bundle: Path, pictures: list[Path]) -> None:
    assert invoke("upscale", pictures[0], "-m", bundle, "-o", "new/big.jpg").stdout == "new/big.jpg\n"
    assert invoke("upscale", pictures[0], "-m", bundle, "-o", "new.v2/").stdout == "new.v2/a.png\n"


def test_a_target_gives_defaults(invoke: Invoke, bundle: Path, pictures: list[Path]) -> None:
    Path("here.toml").write_text('name = "here"\nbackend = "onnxruntime"\nprecision = "fp32"\ntile = 64\nmemory = 100\n')
    result = invoke("upscale", pictures[0], "-m", bundle, "--target", "here.toml")
    assert "on onnxruntime fp32" in result.stderr
    result = invoke("upscale", pictures[0], "-m", bundle, "--target", "here.toml", "--backend", "openvino", "--overwrite")
    assert "on openvino fp32" in result.stderr
    Path("here.toml").write_text('name = "here"\nbakend = "x"\n')
    result = invoke("upscale", pictures[0], "-m", bundle, "--target", "here.toml")
    assert (result.exit_code, "did you mean 'backend'?" in result.stderr) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-m", "{bundle}"], "Missing INPUT"),
        (["in/a.png", "-m", "{bundle}", "-s", "2", "--to", "4k"], "contradict each other"),
        (["in/a.png", "-m", "{bundle}", "--fp32", "--precision", "bf16"], "contradict each other"),
        (["in/a.png", "-m", "{bundle}", "--to", "huge"], "error: size 'huge': not understood"),
        (["in/a.png", "-m", "{bundle}", "-s", "-1"], "error: factor -1"),
        (["in/a.png", "-m", "{bundle}", "-t", "many"], "neither a number of pixels nor 'auto'"),
        (["in/a.png", "-m", "{bundle}", "-t", "-5"], "is below 0"),
        (["in/a.png", "-m", "{bundle}", "-f", "gif"], "error: format '.gif': cannot be written"),
        (["in/a.png", "-m", "{bundle}", "-o", "x.mp4"], "error: -o x.mp4: neither a folder"),
        (["in/a.png", "-m", "{bundle}", "--backend", "abacus"], "error: no backend 'abacus'"),
        (["in/a.png", "-m", "{bundle}", "--quality", "0"], "--quality"),
        (["in/a.png", "-m", "{bundle}", "-g", "0,x"], "is not a list of numbers"),
        (["in/a.png", "-m", "{bundle}", "-g", "1,1"], "is not a list of numbers"),
        (["in/a.png", "-m", "{bundle}", "-g", "-1"], "is not a list of numbers"),
        (["in/a.png", "-m", "{bundle}", "-g", ""], "is not a list of numbers"),
    ],
)
def test_wrong_usage(invoke: Invoke, bundle: Path, pictures: list[Path], arguments: list[str], message: str) -> None:
    del pictures
    result = invoke("upscale", *(argument.format(bundle=bundle) for argument in arguments))
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr


def test_a_gpu_that_no_runtime_can_use(
    invoke: Invoke, bundle: Path, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Survey(problem="the NVIDIA driver does not work here (CUDA error 999)", remedy="check it", broken=True)
    monkeypatch.setattr("sr_deploy.device.gpu.survey", lambda: broken)
    result = invoke("upscale", pictures[0], "-m", bundle)
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (3, "", 1)
    assert "CUDA error 999" in result.stderr and "--allow-cpu" in result.stderr
    assert invoke("upscale", pictures[0], "-m", bundle, "--allow-cpu").exit_code == 0
    assert invoke("upscale", pictures[0], "-m", bundle, "--backend", "openvino", "--overwrite").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--backend", "tensorrt"], "backend 'tensorrt': no NVIDIA driver here"),
        (["--backend", "tensorrt-rtx"], "--backend openvino"),
        (["--backend", "tensorrt", "--allow-cpu"], "--backend openvino"),
        (["--target", str(TARGETS / "rtx.toml")], "backend 'tensorrt-rtx'"),
        (["--target", str(TARGETS / "datacenter.toml")], "backend 'tensorrt'"),
    ],
)
def test_a_runtime_that_is_not_here_is_told_in_one_line(
    invoke: Invoke, bundle: Path, pictures: list[Path], monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    monkeypatch.setattr("sr_deploy.device.gpu.survey", lambda: Survey(problem="no NVIDIA driver here"))
    result = invoke("upscale", pictures[0], "-m", bundle, *arguments)
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (3, "", 1)
    assert words in result.stderr


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (Survey(problem="no NVIDIA driver here", remedy="install it"), "GPU 1 is asked for, and no NVIDIA driver here"),
        (Survey((GPU("NVIDIA L4", "8.9"),)), "there is no GPU 1 on this machine; expected 0 (NVIDIA L4)"),
    ],
)
@pytest.mark.parametrize("arguments", [[], ["--allow-cpu"], ["--base", "fast", "--refine", "quality"]])
def test_a_gpu_that_is_not_there_is_told_in_one_line(
    invoke: Invoke,
    bundle: Path,
    pictures: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    found: Survey,
    words: str,
) -> None:
    monkeypatch.setattr("sr_deploy.device.gpu.survey", lambda: found)
    model = [] if "--base" in arguments else ["-m", bundle]
    result = invoke("upscale", pictures[0], *model, "-g", "1", *arguments)
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (3, "", 1)
    assert words in result.stderr


def test_a_bundle_that_is_missing_or_was_changed(invoke: Invoke, bundle: Path, pictures: list[Path]) -> None:
    result = invoke("upscale", pictures[0], "-m", "nowhere")
    assert (result.exit_code, "no such folder" in result.stderr) == (2, True)
    shutil.copytree(bundle, "changed")
    with Path("changed/fp32.onnx").open("ab") as file:
        file.write(b"\0")
    result = invoke("upscale", pictures[0], "-m", "changed")
    assert (result.exit_code, "changed since it was certified" in result.stderr) == (1, True)
    assert not list(Path("in").glob("*double*"))


def test_json_on_stdout(invoke: Invoke, bundle: Path, pictures: list[Path]) -> None:
    Path("in/bad.png").write_bytes(b"no picture")
    result = invoke("upscale", "in", "-m", bundle, "--json", "--no-progress")
    document = json.loads(result.stdout)
    assert result.exit_code == 1
    assert document["network"] == "double" and document["scale"] == 2
    assert [entry["input"] for entry in document["done"]] == [str(path) for path in pictures]
    assert all(Path(entry["output"]).is_file() and entry["seconds"] > 0 for entry in document["done"])
    assert [entry["input"] for entry in document["failed"]] == ["in/bad.png"]
    assert document["stats"]["tiles"] == len(pictures)
    assert result.stderr.count("\n") == 1


def test_progress_as_json_lines(invoke: Invoke, bundle: Path, pictures: list[Path]) -> None:
    Path("in/bad.png").write_bytes(b"no picture")
    result = invoke("upscale", "in", "gone.png", "-m", bundle, "-f", "bmp", "--progress", "json")
    events = [json.loads(line) for line in result.stderr.splitlines()]
    kinds = [event["event"] for event in events]
    assert kinds[:3] == ["note", "plan", "error"] and kinds[-1] == "end"
    files = [event for event in events if event["event"] == "file"]
    assert [event["status"] for event in files] == ["done", "done", "failed", "done", "done"]
    assert files[-1]["finished"] == files[-1]["files"] == 5
    assert any(event["event"] == "tiles" and event["done"] == event["total"] == 1 for event in events)
    assert events[-1] == {"event": "end", "done": 4, "skipped": 0, "failed": 2, "seconds": events[-1]["seconds"]}
    assert len(result.stdout.splitlines()) == len(pictures)


@pytest.mark.parametrize("kind", ["bar", "line"])
def test_progress_leaves_stdout_alone(invoke: Invoke, bundle: Path, pictures: list[Path], kind: str) -> None:
    result = invoke("upscale", "in", "-m", bundle, "--progress", kind)
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) == len(pictures)
    assert "4 done in" in result.stderr


def test_no_progress_says_nothing(invoke: Invoke, bundle: Path, pictures: list[Path]) -> None:
    result = invoke("upscale", "in", "-m", bundle, "--no-progress")
    assert (result.exit_code, result.stderr) == (0, "")
    assert len(result.stdout.splitlines()) == len(pictures)


def test_what_a_format_cannot_hold_is_told(invoke: Invoke, bundle: Path) -> None:
    write_image(Path("deep.png"), Picture(np.full((8, 8, 3), 1000, np.uint16)))
    result = invoke("upscale", "deep.png", "-m", bundle, "-f", "jpg")
    assert result.exit_code == 0
    assert "note: deep.png: .jpg cannot hold its 16-bit depth" in result.stderr


def test_a_lone_graph_is_a_model(invoke: Invoke, bundle: Path, pictures: list[Path]) -> None:
    assert invoke("upscale", pictures[0], "-m", bundle / "fp32.onnx", "-o", "out").stdout == "out/a.png\n"


def test_a_process_of_its_own(bundle: Path, pictures: list[Path]) -> None:
    result = subprocess.run(
        [*PROGRAM, "upscale", pictures[3], "gone.png", "-m", bundle, "-o", "out"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert result.stdout == "out/é 漢字 [x] 'q'.png\n"
    assert "error: gone.png: no such file or folder\n" in result.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.long)])
def test_ctrl_c_leaves_whole_files_and_the_same_command_goes_on(bundle: Path, number: int, code: int) -> None:
    Path("in").mkdir()
    write_image(Path("in/000.png"), Picture(np.random.default_rng(0).integers(0, 256, (150, 200, 3), np.uint8)))
    for index in range(1, 120):
        os.link("in/000.png", f"in/{index:03}.png")
    command = [*PROGRAM, "upscale", "in", "-m", str(bundle), "-o", "out"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "out/000.png\n"
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=20)
    assert process.returncode == code
    assert "Traceback" not in stderr
    assert ("run the same command again to go on" in stderr) == (number == signal.SIGINT)
    assert not list(Path("out").glob("*.part"))
    done = sorted(Path("out").iterdir())
    assert 1 <= len(done) < 120
    assert len(done) - 1 >= len(stdout.splitlines())
    assert all(read_image(path).pixels.shape == (300, 400, 3) for path in done)
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert len(again.stdout.splitlines()) == 120 - len(done)


@pytest.mark.parametrize(
    ("arguments", "note"),
    [
        (["in/a.png", "--crf", "20", "--no-resume", "-e", "a=b"], "--crf, --encoder-option, --no-resume: without effect"),
        (["in/a.png", "--quality", "80"], "--quality: without effect here, for lossy formats (.avif, .jpeg, .jpg, .webp), and"),
        (["in/a.png", "-o", "b.png", "--suffix", "_y"], "--suffix: without effect here, for results that -o does not name"),
        (["in/a.png", "in/b.jpg", "--quality", "80", "-o", "out/"], ""),
        (["in/a.png", "--suffix", "_y", "-t", "64"], ""),
        (["in/gone.png", "--crf", "20"], ""),
    ],
)
@pytest.mark.usefixtures("pictures")
def test_options_that_do_nothing_are_named(invoke: Invoke, bundle: Path, arguments: list[str], note: str) -> None:
    result = invoke("upscale", *arguments, "-m", bundle, "--no-progress")
    notes = [line for line in result.stderr.splitlines() if line.startswith("note: ")]
    assert [line.startswith(f"note: {note}") for line in notes] == ([True] if note else [])
    again = invoke("upscale", *arguments, "-m", bundle, "--progress", "json")
    told = [json.loads(line) for line in again.stderr.splitlines()]
    assert sum(event["event"] == "note" and "without effect" in event["message"] for event in told) == len(notes)


def test_tiles_do_nothing_for_whole_images(invoke: Invoke, pictures: list[Path]) -> None:
    Path("masked").mkdir()
    masked_bundle(Path("masked"))
    result = invoke("upscale", pictures[0], "-m", "masked", "-t", "64", "--no-progress", "--precision", "fp32")
    assert result.exit_code == 0
    assert result.stderr.startswith("note: --tile: without effect here, for networks that take tiles")


def test_a_tile_that_diverges_costs_no_picture_unless_strict(invoke: Invoke, pictures: list[Path], tmp_path: Path) -> None:
    model = image_graph(gain=12.0)
    onnx.helper.set_model_props(model, {GRAPH_METADATA_KEY: ModelCard("net", "test", 2, 3).to_json()})
    network = save(model, tmp_path, "diverges.onnx")
    result = invoke("upscale", pictures[2], "-m", network, "-o", "out", "--json")
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    stats = {"tiles": 1, "recomputed": 1, "replaced": 1}
    assert document["stats"] == stats
    note = "of 1 tiles 1 were not sane: 0 computed again in fp32, 1 bicubic"
    assert [entry["note"] for entry in document["notes"]] == [note]
    assert re.search(rf"1 done in [\d.]+ s; {note}", result.stderr)
    small = read_image(pictures[2]).pixels
    bicubic = cv2.resize(small, (small.shape[1] * 2, small.shape[0] * 2), interpolation=cv2.INTER_CUBIC)
    assert np.array_equal(read_image(Path("out/c.webp")).pixels, bicubic)
    for strict in (["--strict"], ["--on-failure", "raise"]):
        result = invoke("upscale", pictures[2], "-m", network, "-o", "strict", *strict)
        assert result.exit_code == 1
        assert "the network diverges on this content" in result.stderr
        assert not Path("strict/c.webp").exists()


@pytest.mark.parametrize("suffix", ["png", "gif", "webp"])
def test_lost_transparency_is_told_once(invoke: Invoke, bundle: Path, suffix: str) -> None:
    frames = [Image.new("RGBA", (32, 24), (200, 40 * index, 9, 255 * index)) for index in range(2)]
    frames[0].save(f"a.{suffix}", save_all=True, append_images=frames[1:], disposal=2)
    result = invoke("upscale", f"a.{suffix}", "-m", bundle, "-o", "a.mkv", "--json")
    assert result.exit_code == 0
    assert [entry["note"] for entry in json.loads(result.stdout)["notes"]].count("Its transparency is left out.") == 1
    assert result.stderr.count("transparen") == 1
