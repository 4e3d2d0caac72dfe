"""KServe v2: tensors in and out, bit for bit what the Upscaler gives."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from sr_deploy import Upscaler
from tests.serve.conftest import Running

PATH = "/v2/models/fast-x2/infer"


def tensor(images: NDArray[np.uint8], **more: Any) -> dict[str, Any]:
    return {"name": "pixels", "shape": list(images.shape), "datatype": "UINT8", **more}


@pytest.fixture(scope="module")
def images(photo: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.stack([photo, photo[::-1]])


@pytest.fixture(scope="module")
def expected(images: NDArray[np.uint8], upscaler: Upscaler) -> NDArray[np.uint8]:
    return np.stack([upscaler(np.ascontiguousarray(image)) for image in images])


def test_bytes_behind_the_json(running: Running, images: NDArray[np.uint8], expected: NDArray[np.uint8]) -> None:
    asked = {
        "id": "7",
        "inputs": [tensor(images, parameters={"binary_data_size": images.nbytes})],
        "outputs": [{"name": "upscaled", "parameters": {"binary_data": True}}],
    }
    header = json.dumps(asked).encode()
    answer = running.post(PATH, header + images.tobytes(), Inference_Header_Content_Length=str(len(header)))
    length = int(answer.headers["Inference-Header-Content-Length"])
    document = json.loads(answer.body[:length])
    assert (document["model_name"], document["id"]) == ("fast-x2", "7")
    (output,) = document["outputs"]
    assert output == {
        "name": "upscaled",
        "datatype": "UINT8",
        "shape": list(expected.shape),
        "parameters": {"binary_data_size": expected.nbytes},
    }
    assert answer.body[length:] == expected.tobytes()


@pytest.mark.parametrize("nested", [True, False])
def test_json_alone(running: Running, images: NDArray[np.uint8], expected: NDArray[np.uint8], nested: bool) -> None:
    data = images.tolist() if nested else images.ravel().tolist()
    answer = running.post(PATH, json.dumps({"inputs": [tensor(images, data=data)]}).encode())
    (output,) = answer.json["outputs"]
    assert output["data"] == expected.ravel().tolist()


def test_tritonclient_gets_the_same(running: Running, images: NDArray[np.uint8], expected: NDArray[np.uint8]) -> None:
    client = pytest.importorskip("tritonclient.http", reason="tritonclient[http] is not installed")
    server = client.InferenceServerClient(running.address.removeprefix("http://"))
    assert server.is_server_live() and server.is_server_ready() and server.is_model_ready("fast-x2")
    assert server.get_model_metadata("fast-x2")["inputs"] == [{"name": "pixels", "datatype": "UINT8", "shape": [-1, -1, -1, 3]}]
    for binary in (True, False):
        source = client.InferInput("pixels", list(images.shape), "UINT8")
        source.set_data_from_numpy(images, binary_data=binary)
        wanted = [client.InferRequestedOutput("upscaled", binary_data=binary)]
        result = server.infer("fast-x2", [source], outputs=wanted)
        assert np.array_equal(result.as_numpy("upscaled"), expected)
    assert np.array_equal(server.infer("fast-x2", [source], model_version="1").as_numpy("upscaled"), expected)
    with pytest.raises(Exception, match="not served here"):
        server.infer("rlfn", [source])
    server.close()


def test_the_service_tells_what_it_is(running: Running) -> None:
    assert running.get("/v2").json["extensions"] == ["binary_tensor_data"]
    assert running.get("/v2/models/fast-x2").json["outputs"] == [
        {"name": "upscaled", "datatype": "UINT8", "shape": [-1, -1, -1, 3]}
    ]
    statuses = [
        running.get(f"/v2/{path}").status for path in ("health/live", "health/ready", "models/fast-x2/ready", "models/no")
    ]
    assert statuses == [200, 200, 200, 404]


PIXELS = np.zeros((1, 2, 2, 3), np.uint8)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"inputs":[]}',
        json.dumps({"inputs": [tensor(PIXELS)]}).encode(),
        json.dumps({"inputs": [tensor(PIXELS, data=[0] * 11)]}).encode(),
        json.dumps({"inputs": [tensor(PIXELS, data=[0.5] * 12)]}).encode(),
        json.dumps({"inputs": [tensor(PIXELS, data=[256] * 12)]}).encode(),
        json.dumps({"inputs": [tensor(PIXELS, data=[10**30] * 12)]}).encode(),
        json.dumps({"inputs": [tensor(PIXELS, data=["\ud800"] * 12)]}).encode(),
        json.dumps({"inputs": [tensor(PIXELS, data=[[1], [2, 3]])]}).encode(),
        json.dumps({"inputs": [tensor(PIXELS, data=[True] * 12)]}).encode(),
        json.dumps({"inputs": [tensor(PIXELS, data=[0] * 12) | {"shape": [1, 2, 2, 4]}]}).encode(),
        json.dumps({"inputs": [tensor(PIXELS, data=[0] * 12) | {"shape": [10**4000, 2, 2, 3]}]}).encode(),
        json.dumps({"inputs": [tensor(PIXELS, data=[0] * 12) | {"shape": [0, 2, 2, 3]}]}).encode(),
        json.dumps({"inputs": [tensor(PIXELS, data=[0] * 12) | {"datatype": "FP32"}]}).encode(),
        json.dumps({"inputs": [tensor(PIXELS, data=[0] * 12) | {"name": "\ud800"}]}).encode(),
        json.dumps({"inputs": [tensor(PIXELS, data=[0] * 12)], "outputs": [{"name": "other"}]}).encode(),
    ],
)
def test_what_is_wrong_is_told(running: Running, body: bytes) -> None:
    answer = running.post(PATH, body)
    assert answer.status == 422 and list(answer.json) == ["error"]


@pytest.mark.parametrize("length", ["-1", "9" * 30, "x", "1000", "\u00b2"])
def test_lengths_that_cannot_be(running: Running, length: str) -> None:
    assert running.post(PATH, b"{}" + struct.pack("<I", 7), Inference_Header_Content_Length=length).status == 422


def test_tensors_have_the_limits_of_pictures(running: Running) -> None:
    asked = {"inputs": [tensor(PIXELS, data=[0]) | {"shape": [2, 100, 100, 3]}]}
    assert running.post(PATH, json.dumps(asked).encode()).status == 413
