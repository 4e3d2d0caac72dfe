from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import Result

from sr_deploy.export import export_bundle
from sr_deploy.export.probes import probe_picture
from sr_deploy.pictures.image import Picture, read_image, write_image
from tests.evaluation.test_comparison import Images
from tests.graphs import masked_bundle

Invoke = Callable[..., Result]


@pytest.fixture
def hr() -> Path:
    """Two crops of odd sizes in hr/."""
    folder = Path("hr")
    folder.mkdir()
    for name, pixels in (("a", probe_picture()[:61, :43]), ("é 漢字 [x] 'q'", probe_picture()[100:150, 60:131])):
        write_image(folder / f"{name}.png", Picture(np.ascontiguousarray(pixels)))
    return folder


@pytest.fixture(scope="module")
def ecbsr(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_bundle(shared / "checkpoints/ECBSR_M4C16_x4.pth", tmp_path_factory.mktemp("bundles") / "ecbsr").folder


def test_set5_is_what_the_written_files_measure(invoke: Invoke, shared: Path, ecbsr: Path) -> None:
    hr, lr = shared / "images/Set5/HR", shared / "images/Set5/LR_bicubic/X4"
    result = invoke("evaluate", ecbsr, "--hr", hr, "--lr", lr, "--precision", "fp32", "--json")
    assert result.exit_code == 0, result.stderr
    (found,) = json.loads(result.stdout)["results"]
    assert invoke("upscale", lr, "-m", ecbsr, "-o", "out", "--precision", "fp32").exit_code == 0
    script = shared / "tools/psnr.py"
    independent = subprocess.run([sys.executable, script, "out", hr, "4"], check=True, capture_output=True, text=True)
    assert found["mean"]["psnr_y"] == pytest.approx(float(independent.stdout), abs=1e-4)
    assert found["mean"]["psnr_y"] == pytest.approx(30.887, abs=0.002)
    for key in ("psnr_y", "ssim_y", "seconds"):
        assert found["mean"][key] == pytest.approx(statistics.fmean(image[key] for image in found["images"]), rel=1e-5)
    assert (found["network"], found["scale"], len(found["images"])) == ("ECBSR_M4C16_x4", 4, 5)


def test_nearest_neighbor_as_a_table(invoke: Invoke, bundle: Path, hr: Path) -> None:
    result = invoke("evaluate", bundle, "--hr", hr, "--precision", "fp32", "--runs", "2")
    assert result.exit_code == 0, result.stderr
    header, _, first, second, mean = result.stdout.splitlines()
    assert header.split() == ["image", "PSNR-Y", "dB", "SSIM-Y", "ms"]
    assert second.startswith("é 漢字 [x] 'q' ") and mean.startswith("mean ")
    from sr_deploy.bicubic import imresize

    small = imresize(probe_picture()[:60, :42], 30, 21)
    x, y = (
        (image.astype(float) @ np.array([65.481, 128.553, 24.966]) / 255 + 16)[2:-2, 2:-2]
        for image in (probe_picture()[:60, :42], small.repeat(2, 0).repeat(2, 1))
    )
    assert float(first.split()[1]) == pytest.approx(cv2.PSNR(x, y, 255.0), abs=0.001)
    assert float(mean.split()[1]) == pytest.approx((float(first.split()[1]) + float(second.split()[-3])) / 2, abs=0.002)
    assert result.stderr == "double on openvino fp32\n"


def test_several_bundles_side_by_side(invoke: Invoke, bundle: Path, hr: Path) -> None:
    result = invoke("evaluate", bundle, bundle / "fp32.onnx", "--hr", hr, "--backend", "onnxruntime", "--precision", "fp32")
    assert result.exit_code == 0, result.stderr
    header, _, first, *_ = result.stdout.splitlines()
    assert "double PSNR-Y dB" in header and "fp32 PSNR-Y dB" in header
    cells = first.split()
    assert len(cells) == 7 and cells[1:3] == cells[4:6]


def test_the_images_in_a_page(invoke: Invoke, bundle: Path, hr: Path) -> None:
    graph = bundle / "fp32.onnx"
    common = ("--hr", hr, "--backend", "onnxruntime", "--precision", "fp32", "--html", "é [x].html")
    result = invoke("evaluate", bundle, graph, *common)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines()[0].split()[:2] == ["image", "double"]
    found = Images(Path("é [x].html"))
    assert [tag for tag, _ in found.tags].count("figure") == 2
    assert [image["alt"] for image in found.images] == ["LR", "double", "fp32", "HR"] * 2
    psnr = result.stdout.splitlines()[2].split()[1]
    assert found.images[1]["data-note"] == found.images[2]["data-note"]
    assert str(found.images[1]["data-note"]).startswith(f"{float(psnr):.2f} dB, SSIM 0.")
    Path("masked").mkdir()
    masked_bundle(Path("masked"))
    assert invoke("evaluate", "masked", *common, "--shares", "0,50").exit_code == 0
    assert [image["alt"] for image in Images(Path("é [x].html")).images][:4] == ["LR", "0%", "50%", "HR"]


def test_faults(invoke: Invoke, bundle: Path, hr: Path) -> None:
    Path("lr").mkdir()
    for arguments, code, message in (
        ((bundle, "--hr", "gone"), 2, "error: gone: no such folder; expected a folder of images"),
        ((bundle, "--hr", "lr"), 2, "error: lr: no images in it"),
        ((bundle, "--hr", hr, "--lr", "lr"), 2, "error: lr: no images in it"),
        ((bundle, "--hr", hr, "--lr", hr), 2, "error: hr/a.png: 43x61 does not match a.png; expected 21x30 for x2"),
        (("gone", "--hr", hr), 2, "error: gone: not a bundle"),
        ((bundle, "--hr", hr, "--backend", "abacus"), 2, "abacus"),
        ((bundle, "--hr", hr, "--html", "a.png"), 2, "error: --html a.png: a comparison is a page"),
        ((bundle, "--hr", hr, "--html", "no/a.html"), 2, "error: --html no/a.html: there is no folder no"),
        ((bundle,), 2, "Missing option '--hr'"),
        (("--hr", hr), 2, "Name BUNDLE..., or --base"),
    ):
        result = invoke("evaluate", *arguments)
        assert (result.exit_code, result.stdout) == (code, ""), arguments
        assert message in result.stderr


def test_a_mask_guided_network_is_swept_over_its_patches(invoke: Invoke, hr: Path) -> None:
    Path("masked").mkdir()
    masked_bundle(Path("masked"))
    arguments = ("evaluate", "masked", "--hr", hr, "--backend", "onnxruntime", "--precision", "fp32", "--shares", "50%,0,100")
    result = invoke(*arguments, "--plot", "plot.png")
    assert result.exit_code == 0, result.stderr
    header, _, *rows = result.stdout.splitlines()
    assert header.split() == ["patches", "refined", "PSNR-Y", "dB", "SSIM-Y", "ms"]
    assert [row.split()[0] for row in rows] == ["0%", "50%", "100%"]
    assert read_image(Path("plot.png")).pixels.shape == (600, 960, 3)
    document = json.loads(invoke(*arguments, "--json").stdout)
    assert [entry["bundle"] for entry in document["networks"]] == ["masked"]
    assert [point["amount"] for point in document["points"]] == [0, 0.5, 1]
    assert document["points"][0]["refined"] == 0 and document["points"][2]["refined"] == 1
    assert [image["name"] for image in document["points"][1]["images"]] == ["a", "é 漢字 [x] 'q'"]


def test_a_pair_is_swept_over_the_time(invoke: Invoke, bundle: Path, hr: Path) -> None:
    arguments = ("--base", bundle, "--refine", bundle, "--hr", hr, "--backend", "onnxruntime", "--precision", "fp32")
    result = invoke("evaluate", *arguments, "--shares", "0,100", "--plot", "é [x].png")
    assert result.exit_code == 0, result.stderr
    header, _, first, last = result.stdout.splitlines()
    assert header.split()[:2] == ["time", "refined"]
    assert first.split()[:2] == ["0%", "0.0%"] and last.split()[:2] == ["100%", "100.0%"]
    assert first.split()[2:4] == last.split()[2:4]
    assert "double, refined by double, 100%: " in result.stderr
    assert Path("é [x].png").is_file()


def test_faults_of_sweeps(invoke: Invoke, bundle: Path, hr: Path) -> None:
    Path("masked").mkdir()
    masked_bundle(Path("masked"))
    for arguments, message in (
        ((bundle, "--plot", "a.png"), "--shares and --plot are for a mask-guided network"),
        ((bundle, "--shares", "5"), "--shares and --plot are for a mask-guided network"),
        (("--base", bundle), "Name BUNDLE..., or --base together with --refine."),
        ((bundle, "--base", bundle, "--refine", bundle), "Name BUNDLE..., or --base together with --refine."),
        (("masked", bundle), "A mask-guided network is measured alone"),
        (("masked", "--shares", "5,x"), "is no list of percentages"),
        (("masked", "--shares", ""), "is no list of percentages"),
        (("masked", "--shares", "nan"), "goes beyond 0 to 100 percent"),
        (("masked", "--shares", "50,101"), "goes beyond 0 to 100 percent"),
        (("masked", "--plot", "a.xyz"), "--plot a.xyz: a plot is a picture; expected a name that ends in .png"),
        (("masked", "--plot", "no/a.png"), "--plot no/a.png: there is no folder no"),
    ):
        result = invoke("evaluate", *arguments, "--hr", hr)
        assert (result.exit_code, result.stdout) == (2, ""), (arguments, result.stderr)
        assert message in result.stderr
