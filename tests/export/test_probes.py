import importlib.util
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sr_deploy.export.probes import as_input, degrade, noise_probes, parity_probes, probe_picture, range_probes
from sr_deploy.metrics import luma

ROOT = Path(__file__).parents[2]


def test_the_script_draws_the_stored_picture() -> None:
    spec = importlib.util.spec_from_file_location("make_probe_picture", ROOT / "benchmarks" / "make_probe_picture.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    drawn = script.draw().astype(int)
    assert np.abs(drawn - probe_picture()).max() <= 1


def test_pillow_reads_the_same_picture() -> None:
    data = (ROOT / "sr_deploy" / "probe_picture.png").read_bytes()
    with Image.open(io.BytesIO(data)) as image:
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")), probe_picture())


@pytest.mark.parametrize(("scale", "size_multiple"), [(2, 1), (3, 1), (4, 1), (8, 1), (2, 16), (4, 7)])
def test_hr_is_the_scale_times_lr(scale: int, size_multiple: int) -> None:
    hr, lr = degrade(probe_picture(), scale, size_multiple=size_multiple)
    assert hr.shape == (lr.shape[0] * scale, lr.shape[1] * scale, 3)
    assert lr.shape[0] % size_multiple == lr.shape[1] % size_multiple == 0


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("min_size", "size_multiple"), [(1, 1), (15, 1), (1, 8), (100, 16)])
def test_probes_fit_the_network(channels: int, min_size: int, size_multiple: int) -> None:
    needs = {"min_size": min_size, "size_multiple": size_multiple}
    for probes in (parity_probes(channels, **needs), range_probes(channels, **needs), noise_probes(channels, **needs)):
        for name, probe in probes.items():
            assert probe.dtype == np.float32, name
            assert probe.shape[:2] == (1, channels), name
            assert min(probe.shape[2:]) >= min_size, name
            assert probe.shape[2] % size_multiple == probe.shape[3] % size_multiple == 0, name
            assert 0 <= probe.min() <= probe.max() <= 1, name
            np.testing.assert_allclose(probe * 255, np.round(probe * 255), atol=1e-4)


def test_parity_probes_have_odd_and_least_sizes() -> None:
    sizes = {probe.shape[2:] for probe in parity_probes(3).values()}
    assert (27, 33) in sizes
    assert (1, 1) in sizes


def test_y_input_is_luma(picture: np.ndarray) -> None:
    np.testing.assert_array_equal(as_input(picture, 1)[0, 0] * 255, np.round(luma(picture)).astype(np.float32))
