"""`plan`, `segment`, `join`, and `upscale --shard`: the work of one run in many processes."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from tests.video.clips import Clips, frames

Invoke = Callable[..., Result]
FAST = ("--preset", "ultrafast")


@pytest.fixture
def film(clips: Clips) -> Path:
    path = Path("é 漢字 [x] 'q'.mkv")
    shutil.copy(clips["rich"], path)
    return path


def test_a_film_by_three_processes_is_that_of_one(invoke: Invoke, bundle: Path, film: Path) -> None:
    assert invoke("upscale", film, "-m", bundle, "-o", "whole.mkv", *FAST).exit_code == 0
    planned = invoke("plan", film, "-m", bundle, "-o", "film.mkv", *FAST)
    assert planned.exit_code == 0, planned.stderr
    count = len(frames(film))
    pattern = (
        rf"{re.escape(str(film))} -> film\.mkv: {count} frames in 1 segments of 240, about [\d.e+-]+ MB, about \d+ s here\n"
    )
    assert re.fullmatch(pattern, planned.stdout)
    missing = invoke("join", "film.mkv")
    assert missing.exit_code == 1
    assert "1 of 1 segments are missing or damaged: 0" in missing.stderr
    for shard in ("2/3", "1/3", "0/3"):
        result = invoke("segment", "film.mkv.part", "--shard", shard)
        assert result.exit_code == 0, result.stderr
    assert invoke("segment", "film.mkv.part/plan.json", "--index", "0").stdout.endswith("film.mkv.part/000000.nut\n")
    joined = invoke("join", "film.mkv.part")
    assert (joined.exit_code, Path(joined.stdout.strip()).name) == (0, "film.mkv")
    assert Path("film.mkv").read_bytes() == Path("whole.mkv").read_bytes()


def test_a_plan_opens_the_network_as_it_was_planned(invoke: Invoke, bundle: Path, film: Path) -> None:
    assert (
        invoke("plan", film, "-m", bundle, "-o", "film.mkv", "--backend", "onnxruntime", "--no-measure", *FAST).exit_code == 0
    )
    network = json.loads(Path("film.mkv.part/plan.json").read_text())["network"]
    assert (network["model"], network["backend"]) == (str(bundle), "onnxruntime")
    assert invoke("segment", "film.mkv.part").exit_code == 0
    assert "runs" in invoke("upscale", film, "-m", bundle, "-o", "film.mkv", "--backend", "openvino", *FAST).stderr
    assert invoke("join", "film.mkv.part").exit_code == 0


def test_networks_of_the_box_are_planned_by_name(invoke: Invoke, film: Path) -> None:
    assert invoke("plan", film, "-m", "fast-x2", "-o", "film.mkv", "--no-measure", *FAST).exit_code == 0
    assert json.loads(Path("film.mkv.part/plan.json").read_text())["network"]["model"] == "fast-x2"
    shutil.rmtree("film.mkv.part")


def test_a_folder_is_planned_whole(invoke: Invoke, bundle: Path, film: Path, pictures: list[Path]) -> None:
    film.rename(Path("in") / film)
    Path("in/bad.mkv").write_bytes(b"no video")
    result = invoke("plan", "in", "-m", bundle, "-o", "out", *FAST)
    assert result.exit_code == 1
    assert f"{len(pictures)} pictures: about" in result.stdout
    assert f"in/{film} -> out/{film}: " in result.stdout
    assert "error: in/bad.mkv" in result.stderr
    shutil.rmtree("out")


def test_shards_of_a_folder_are_all_of_it(invoke: Invoke, bundle: Path, pictures: list[Path]) -> None:
    whole = invoke("upscale", "in", "-m", bundle, "-o", "whole").stdout.splitlines()
    parts = [
        invoke("upscale", "in", "-m", bundle, "-o", "out", "--shard", f"{part}/3").stdout.splitlines() for part in range(3)
    ]
    assert [len(part) for part in parts] == [2, 1, 1]
    assert sorted(Path(path).relative_to("out") for part in parts for path in part) == sorted(
        Path(path).relative_to("whole") for path in whole
    )
    assert len(whole) == len(pictures)


@pytest.mark.parametrize("shard", ["3/3", "1", "-1/3", "a/b", "0/0", "1/2/3"])
def test_wrong_shards_are_refused(invoke: Invoke, shard: str) -> None:
    for command in (("segment", "film.mkv.part"), ("upscale", "in")):
        result = invoke(*command, "--shard", shard)
        assert (result.exit_code, f"'{shard}' is no part such as 0/4" in result.stderr) == (2, True)


@pytest.mark.parametrize("command", [("segment",), ("join",)])
def test_without_a_plan_there_is_nothing_to_do(invoke: Invoke, command: tuple[str, ...]) -> None:
    result = invoke(*command, "nothing.mkv.part")
    assert result.exit_code == 2
    assert "no plan there; expected plan.json or its folder, as `sr-deploy plan` writes it" in result.stderr


def test_wrong_numbers_are_refused_before_anything_is_opened(invoke: Invoke, bundle: Path, film: Path) -> None:
    assert invoke("plan", film, "-m", bundle, "-o", "film.mkv", "--no-measure", *FAST).exit_code == 0
    result = invoke("segment", "film.mkv.part", "--index", "0", "--index", "9")
    assert result.exit_code == 2 and "segment 9: there is none; the plan has 1, the first is 0" in result.stderr
    assert invoke("segment", "film.mkv.part", "--index", "0", "--shard", "0/2").exit_code == 2
    shutil.rmtree("film.mkv.part")
