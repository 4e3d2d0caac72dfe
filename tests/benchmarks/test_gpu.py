"""The benchmark for GPUs, run whole where there is none."""

from __future__ import annotations

import math
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import gpu
import gpu_masked
import gpu_speed
import gpu_video
import numpy as np
import pytest

from sr_deploy.bundle import Bundle, sha256_of
from sr_deploy.card import Source
from sr_deploy.engines import BACKENDS
from sr_deploy.errors import EngineError
from sr_deploy.upscaling.gpu.frames import Schedule
from sr_deploy.upscaling.gpu.tune import Measurement
from sr_deploy.upscaling.tiling import plan_tiles
from tests.cli.conftest import bundle
from tests.graphs import masked_bundle

__all__ = ["bundle"]


@pytest.fixture(scope="module", autouse=True)
def _warp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    pytest.importorskip("warp")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WARP_CACHE_PATH", str(tmp_path_factory.mktemp("warp")))
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def lines_of(part: str, *arguments: object) -> list[str]:
    options = gpu.parse([*map(str, arguments), "--device", "cpu", "--part", part])
    return "\n".join(gpu.run_part(options)).splitlines()


def cells_of(lines: list[str], label: str) -> list[list[str]]:
    """Of each row of a table that starts with the label, the cells."""
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if line.startswith("| ")]
    return [row for row in rows if row[0].strip() == label]


def test_a_report_of_parts_in_processes_of_their_own(bundle: Path, tmp_path: Path) -> None:
    report = tmp_path / "é report.md"
    gpu.main([str(bundle), "--device", "cpu", "--only", "machine,kernels", "-o", str(report)])
    text = report.read_text(encoding="utf-8")
    assert "**not a GPU: NVIDIA Warp's CPU device: no figure here is one of a GPU.**" in text
    assert re.findall("^## (.*)", text, re.M) == ["Machine", "Kernels against numpy"]
    assert "| backend stand-in | works |" in text and "failed" not in text
    rows = re.findall(r"^\| (?:gather|scatter|health).* \| (\d+) \| (\d+) \|$", text, re.M)
    assert len(rows) == 7 and all(cases == equal for cases, equal in rows)
    assert not list(tmp_path.glob("*.part"))


def test_arrays_and_certificate(bundle: Path) -> None:
    ((*_, frames, whole, tiled),) = cells_of(lines_of("arrays", bundle), "double")
    assert frames == whole == tiled == "3"
    rows = cells_of(lines_of("certificate", bundle), "double")
    assert [row[1] for row in rows] == ["stand-in fp32", "stand-in fp32 pixels", "stand-in fp32 planes"]
    assert all(row[-1].startswith("yes") for row in rows)


def test_speed(bundle: Path) -> None:
    ((_, backend, gflop, _, bound, inference, share, end_to_end, fps, overlap),) = cells_of(lines_of("speed", bundle), "double")
    assert backend == "stand-in"
    assert float(gflop) == pytest.approx(2 * 36 * 64 * 48 / 1e9, abs=0.1)
    assert float(share) == pytest.approx(float(bound) / float(inference), rel=0.2, abs=0.02)
    assert float(overlap) == pytest.approx(float(end_to_end) / float(inference), rel=0.2, abs=0.02)
    assert float(fps) == pytest.approx(1e3 / float(end_to_end), rel=0.05)


def test_tiles(bundle: Path) -> None:
    rows = cells_of(lines_of("tiles", bundle, "--size", "300x280"), "double")
    assert len(rows) > 4
    (best,) = [row for row in rows if row[6] == "*"]
    assert best[7].startswith("in 0 of ")


@pytest.mark.filterwarnings("error")
def test_mask_guided_networks_on_the_device_and_on_the_host(tmp_path: Path) -> None:
    masked_bundle(tmp_path)
    lines = lines_of("masked", tmp_path, "--size", "66x49")
    rows = cells_of(lines, "masked")
    assert [row[2] for row in rows] == [f"{count} of 192" for count in (0, 19, 38, 96, 192)]
    for _, backend, _, *times, at_once, graph, launches, fps, patches, host, arrays in rows:
        assert (backend, patches, arrays, graph) == ("stand-in", "yes", "yes", "-")
        assert host.startswith("0 of ")
        assert sum(map(float, times[:-1])) == pytest.approx(float(times[-1]), abs=0.01)
        assert float(at_once) > 0 and float(fps) > 0 and int(launches) > 0
    (none, *_, every) = rows
    assert float(none[6]) == 0 < float(every[6])


def test_time_that_is_up_between_shares_keeps_the_rows_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    masked_bundle(tmp_path)
    monkeypatch.setattr(gpu_masked, "_share", lambda session, *_: [setattr(session, "deadline", 0.0)])
    lines = lines_of("masked", tmp_path)
    assert len(cells_of(lines, "masked")) == 1
    assert lines[-1] == "**time is up; nothing was measured from masked, stand-in, 10% on**"


def test_stages_of_a_mask_guided_network_are_told_apart() -> None:
    from sr_deploy.device import patch_kernels as masks
    from sr_deploy.device import selection_kernels as selection

    kernels = (masks.crop_patches, masks.paste_patches, selection.find_least, selection.write_parts)
    assert [gpu_masked.stage_of(kernel) for kernel in kernels] == ["crop", "paste", "select", "select"]


def test_without_a_mask_guided_network_the_part_says_so(bundle: Path) -> None:
    assert lines_of("masked", bundle) == ["No bundle of a mask-guided network was given."]


def test_video(bundle: Path) -> None:
    lines = lines_of("video", bundle, "--size", "32x24")
    assert {row[0] for row in (*cells_of(lines, "NVDEC"), *cells_of(lines, "NVENC"))} == {"NVDEC", "NVENC"}
    for name in gpu_video.DEPTHS:
        assert [row[1:4] for row in cells_of(lines, name)] == [["to RGB", "6", "6"], ["from RGB", "6", "6"]]
    rows = cells_of(lines, "double")
    assert [row[2] for row in rows] == list(gpu_video.DEPTHS)
    assert all(float(row[5]) == pytest.approx(1e3 / float(row[4]), rel=0.05) for row in rows)


@pytest.mark.parametrize(("name", "depth", "padding"), [("nv12", 8, 0), ("p010le", 10, 6)])
def test_the_references_for_video_are_what_ffmpeg_gives_to_a_code(name: str, depth: int, padding: int) -> None:
    import av
    import video_references as reference
    from av.video.reformatter import ColorRange, Colorspace, Interpolation

    pixels = np.kron(np.random.default_rng(3).integers(0, 256, (6, 8, 3), dtype=np.uint8), np.ones((16, 16, 1), np.uint8))
    frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(
        format=name,
        dst_colorspace=Colorspace.ITU709,
        src_color_range=ColorRange.JPEG,
        dst_color_range=ColorRange.MPEG,
        interpolation=Interpolation.BICUBIC,
    )
    wide = np.uint8 if depth == 8 else np.uint16
    found = [
        np.frombuffer(plane, wide).reshape(plane.height, -1)[:, :width]
        for plane, width in zip(frame.planes, (128, 128), strict=True)
    ]
    luma, chroma = reference.to_codes(pixels, depth)
    tolerance = 1 << (depth - 8)
    assert np.abs(luma - (found[0].astype(int) >> padding)).max() <= tolerance
    inside = np.s_[4::8, 4::8]
    there = (found[1].astype(int) >> padding).reshape(chroma.shape)
    assert np.abs(chroma[inside] - there[inside]).max() <= tolerance
    again = reference.to_rgb(luma, chroma, depth)
    assert np.abs(again[8::16, 8::16].astype(int) - pixels[8::16, 8::16]).max() <= 3


def test_contenders_beside_torch(bundle: Path, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from sr_deploy.architectures import REGISTRY
    from sr_deploy.architectures.ecbsr import ECBSRConfig

    checkpoint = tmp_path / "ecbsr.pth"
    ecbsr = next(architecture for architecture in REGISTRY if architecture.name == "ecbsr")
    torch.save(ecbsr.build(ECBSRConfig(scale=2, colors=3, channels=4, blocks=1)).state_dict(), checkpoint)
    opened = Bundle.open(bundle)
    folder = tmp_path / "bundle"
    folder.mkdir()
    for file in bundle.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    card = replace(opened.card, source=Source(checkpoint.name, sha256_of(checkpoint)))
    Bundle(folder, card, opened.graphs, opened.certificate).write_card()
    lines = lines_of("contenders", folder, "--checkpoints", tmp_path, "--size", "16x12")
    found = {row[1]: row[2] for row in cells_of(lines, "double")}
    assert float(found["sr-deploy, stand-in"]) > 0
    assert float(found["torch eager, fp16 channels_last"]) > 0
    assert "CUDA graphs need a GPU" in found["torch under a CUDA graph"]


def test_without_a_checkpoint_torch_is_left_out(bundle: Path) -> None:
    lines = lines_of("contenders", bundle, "--size", "16x12")
    assert "No checkpoint was given" in lines[0]
    assert [row[1] for row in cells_of(lines, "double")] == ["sr-deploy, stand-in"]


def test_tensorrt_for_rtx_without_a_gpu_is_a_line(bundle: Path) -> None:
    text = "\n".join(lines_of("rtx", bundle))
    assert "TensorRT for RTX" in text
    assert "no: " in text or "cannot be loaded" in text


def test_tensorrt_for_rtx_is_asked_in_every_way_before_it_is_refused(bundle: Path) -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    lines = lines_of("rtx", bundle)
    ((_, built, validity, *_),) = cells_of(lines, "without targets")
    assert re.fullmatch(r"\d+ bytes", built) and "EngineValidity." in validity
    ((_, current, *_),) = cells_of(lines, "for the current GPU")
    assert re.fullmatch(r"\d+ bytes", current) or "CUDA" in current
    assert len(cells_of(lines, "8.0")) == len(cells_of(lines, "7.5, 8.0, 8.6, 8.9, 12.0, 12.1")) == 1


def test_a_part_that_fails_is_a_line(tmp_path: Path, bundle: Path) -> None:
    assert lines_of("speed", tmp_path)[-1].startswith("**failed**: BundleError: ")
    assert "there are double" in lines_of("speed", bundle, "--networks", "other")[-1]


def test_time_that_is_up_is_a_line(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert lines_of("kernels", bundle, "--minutes", "-1")[-1].startswith("**time is up; nothing was measured from gather")
    monkeypatch.setattr(gpu, "GRACE", 0.01)
    assert list(gpu.in_own_process(gpu.PARTS[0], 0.0, [str(bundle)]))[-1] == "**ended: its time was up**"


def test_a_part_that_crashes_is_a_line() -> None:
    assert "**ended with code 2**" in list(gpu.in_own_process(gpu.PARTS[0], 30.0, ["--size"]))[-1]


def test_lines_of_a_part_are_in_the_report_before_it_ends(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report, seen = tmp_path / "report.md", []

    def lines(*_: object) -> Iterator[str]:
        for number in range(2):
            yield f"line {number}"
            seen.append(report.read_text(encoding="utf-8").splitlines()[-1])
        raise KeyboardInterrupt

    monkeypatch.setattr(gpu, "in_own_process", lines)
    with pytest.raises(KeyboardInterrupt):
        gpu.main([str(bundle), "--only", "kernels", "-o", str(report)])
    assert seen == ["line 0", "line 1"]
    assert report.read_text(encoding="utf-8").endswith("line 0\nline 1\n")


def test_lines_of_a_process_come_while_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "part.py"
    script.write_text("import time; print('first'); time.sleep(60); print('last')")
    monkeypatch.setattr(gpu, "__file__", str(script))
    monkeypatch.setattr(gpu, "GRACE", 1.0)
    lines = gpu.in_own_process(gpu.PARTS[0], 0.0, [])
    assert next(lines) == "first"
    assert list(lines) == ["", "**ended: its time was up**"]


def test_what_a_part_leaves_running_does_not_hold_up_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "part.py"
    ends = "import time; time.sleep(60); print('last')"
    script.write_text(f"import subprocess, sys; subprocess.run([sys.executable, '-c', {ends!r}])")
    monkeypatch.setattr(gpu, "__file__", str(script))
    monkeypatch.setattr(gpu, "GRACE", 1.0)
    assert list(gpu.in_own_process(gpu.PARTS[0], 0.0, [])) == ["", "**ended: its time was up**"]


def test_shares_hold_the_start_of_each_part_and_add_up() -> None:
    for seconds in (20.0, 480.0):
        left, shares = seconds, []
        for index in range(len(gpu.PARTS)):
            shares.append(gpu.share_of_first(gpu.PARTS[index:], left))
            left -= shares[-1]
        assert sum(shares) == pytest.approx(seconds)
        assert min(shares) >= min(gpu.STARTUP, seconds / len(gpu.PARTS))
    by_weight = sorted(zip(shares, (part.weight for part in gpu.PARTS), strict=True))
    assert [weight for _, weight in by_weight] == sorted(part.weight for part in gpu.PARTS)


def test_the_time_of_a_part_counts_from_before_its_process_started(bundle: Path) -> None:
    lines = lines_of("kernels", bundle, "--minutes", "9", "--until", time.time() - 1)
    assert lines[-1].startswith("**time is up; nothing was measured from gather")


def test_what_tune_measures_is_told_at_once_and_ends_with_the_time() -> None:
    measured = [Measurement(Schedule(slots=slots), float(slots)) for slots in (1, 2, 3)]
    begun: list[int] = []

    def search(progress: Callable[[Measurement], None]) -> None:
        for number, one in enumerate(measured):
            begun.append(number)
            progress(one)

    assert list(gpu_speed.as_they_come(search, math.inf)) == measured
    begun.clear()
    assert list(gpu_speed.as_they_come(search, -math.inf)) == measured[:1]
    assert begun == [0]


def test_what_ends_tune_is_raised() -> None:
    def search(progress: Callable[[Measurement], None]) -> None:
        progress(Measurement(Schedule(), None, problem="refused"))
        raise EngineError("no schedule runs")

    with pytest.raises(EngineError, match="no schedule runs"):
        list(gpu_speed.as_they_come(search, math.inf))


def test_without_a_gpu_every_part_says_so(bundle: Path) -> None:
    options = [gpu.parse([str(bundle), "--part", part]) for part in ("machine", "kernels", "certificate", "speed", "tiles")]
    texts = ["\n".join(gpu.run_part(one)) for one in options]
    if "none: " in texts[0]:
        assert all("**failed**: BackendUnavailableError: " in text for text in texts[1:])


def test_the_stand_in_is_gone_afterwards(bundle: Path) -> None:
    from sr_deploy import engines

    lines_of("machine", bundle)
    assert engines.BACKENDS == BACKENDS


def test_contenders_run_in_turn() -> None:
    ran: list[str] = []

    def contender(name: str) -> gpu_speed.Contender:
        return gpu_speed.Contender(lambda: ran.append(name), lambda: ran.append(f"wait {name}"))

    contenders = {name: contender(name) for name in "ab"}
    seconds = gpu_speed.measure(contenders, 2)
    assert ran == ["a", "wait a", "b", "wait b"] * 5
    assert [len(values) for values in seconds.values()] == [2, 2]


@pytest.mark.parametrize("blend", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (61, 75), (33, 200)])
def test_the_references_cut_and_join(size: tuple[int, int], blend: bool) -> None:
    import kernel_references as reference

    tiling = plan_tiles(*size, tile=9, halo=5, blend=blend)
    frame = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    tiles = reference.cut(tiling, frame)
    np.testing.assert_array_equal(reference.join(tiling, tiles, 1), frame)
    np.testing.assert_array_equal(reference.to_levels(reference.to_planar(tiles)), tiles)
    np.testing.assert_allclose(reference.health(tiles), tiles.mean(axis=(1, 2, 3)), rtol=1e-5)


def test_help(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--help"])
    with pytest.raises(SystemExit):
        gpu.main()
    assert "--only" in capsys.readouterr().out
