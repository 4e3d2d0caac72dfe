from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from sr_deploy.bundle import PROBE_FILE
from sr_deploy.engines import available_backends, select_backend
from sr_deploy.errors import CertificationError
from sr_deploy.export.activations import measure_activations
from sr_deploy.export.certify import as_function, certify, run_original, write_probes
from sr_deploy.export.precision import to_fp16
from sr_deploy.export.probes import parity_probes
from sr_deploy.export.trace import trace
from tests.export.conftest import Tiny

PROBES = parity_probes(3)


@pytest.fixture(scope="module")
def chain() -> tuple[Tiny, onnx.ModelProto, onnx.ModelProto, dict[str, np.ndarray]]:
    network = Tiny().eval()
    fp32 = trace(network, channels=3)
    half = to_fp16(fp32, measure_activations(fp32, PROBES))
    return network, fp32, half.model, run_original(as_function(network), PROBES)


Chain = tuple[Tiny, onnx.ModelProto, onnx.ModelProto, dict[str, np.ndarray]]


def test_a_good_chain_covers_every_backend_and_probe(chain: Chain) -> None:
    network, fp32, fp16, outputs = chain
    links = certify(PROBES, outputs, scale=2, reparameterized=as_function(network), fp32=fp32, fp16=fp16)
    assert all(link.passed for link in links)
    assert {link.probe for link in links} == set(PROBES)
    targets = {link.target for link in links}
    for backend in available_backends():
        named = {"fp32", "fp16"} & set(select_backend(backend).precisions())
        assert {f"{precision}.onnx on {backend}" for precision in named} <= targets
    assert next(link for link in links if link.target == "reparameterized").max_lsb == 0
    assert all(link.source == "original" and link.floor for link in links)


def damaged(model: onnx.ModelProto, *, by: float) -> onnx.ModelProto:
    """One weight of the last conv moved, as a wrong fold would."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    tensor = next(item for item in result.graph.initializer if item.name == "tail.bias")
    values = numpy_helper.to_array(tensor).copy()
    values[0] += by
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return result


def test_a_broken_fp32_graph_is_found(chain: Chain) -> None:
    network, fp32, fp16, outputs = chain
    with pytest.raises(CertificationError, match=r"breaks at 'fp32\.onnx on onnxruntime'.*expected is max"):
        certify(PROBES, outputs, scale=2, reparameterized=as_function(network), fp32=damaged(fp32, by=0.004), fp16=fp16)


def test_a_broken_fp16_graph_is_found(chain: Chain) -> None:
    network, fp32, fp16, outputs = chain
    with pytest.raises(CertificationError, match=r"breaks at 'fp16\.onnx on onnxruntime'.*PSNR >= 50 dB"):
        certify(PROBES, outputs, scale=2, reparameterized=as_function(network), fp32=fp32, fp16=damaged(fp16, by=0.1))


def test_a_wrong_fold_is_found(chain: Chain) -> None:
    _, fp32, fp16, outputs = chain
    other = as_function(Tiny(seed=1).eval())
    with pytest.raises(CertificationError, match="breaks at 'reparameterized'"):
        certify(PROBES, outputs, scale=2, reparameterized=other, fp32=fp32, fp16=fp16)


@pytest.mark.parametrize("value", ["nan", "inf", "-2.4e36"])
def test_an_original_with_nan_or_what_eight_bits_make_inf_is_refused(value: str) -> None:
    with pytest.raises(CertificationError, match="original network gives NaN or Inf"):
        run_original(lambda probe: probe * np.float32(0) + np.float32(value), PROBES)


def test_probes_are_stored_without_loss(tmp_path: Path, chain: Chain) -> None:
    outputs = chain[3]
    write_probes(tmp_path, PROBES, outputs)
    with np.load(tmp_path / PROBE_FILE) as stored:
        assert set(stored.files) == {f"{name}.{side}" for name in PROBES for side in ("input", "output")}
        for name, probe in PROBES.items():
            np.testing.assert_array_equal(stored[f"{name}.input"], probe)
            np.testing.assert_array_equal(stored[f"{name}.output"], outputs[name])
            assert stored[f"{name}.output"].dtype == np.float32
