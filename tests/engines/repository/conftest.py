"""Bundles of small graphs, and a server of one repository that speaks KServe's v2 protocol."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from sr_deploy.bundle import Bundle, sha256_of
from sr_deploy.card import GraphCard, ModelCard, Precision
from sr_deploy.engines import open_engine
from tests.graphs import image_graph, save

MakeBundle = Callable[..., Bundle]
Serve = Callable[[Path], str]
DTYPE_OF = {"UINT8": "uint8", "FP16": "float16", "FP32": "float32"}


@pytest.fixture
def make_bundle(tmp_path: Path) -> MakeBundle:
    def make(name: str = "net", *, channels: int = 3, precisions: tuple[Precision, ...] = ("fp32",), **graph: Any) -> Bundle:
        folder = tmp_path / "bundles" / name
        folder.mkdir(parents=True)
        card = ModelCard(name, "test", 2, channels, tiling="exact", halo=3, activation_bytes=120)  # type: ignore[arg-type]
        cards = {}
        for precision in precisions:
            float_type = TensorProto.FLOAT16 if precision == "fp16" else TensorProto.FLOAT
            path = save(image_graph(channels=channels, float_type=float_type, **graph), folder, f"{precision}.onnx")
            cards[precision] = GraphCard(path.name, precision, sha256_of(path), 20)
        bundle = Bundle(folder, card, cards)
        bundle.write_card()
        return bundle

    return make


def answer(model: onnx.ModelProto, body: bytes, header: int) -> bytes:
    """The header's length as 4 bytes, and the response: what KServe's binary extension says of a request."""
    asked = json.loads(body[:header])
    (given,) = asked["inputs"]
    size = given["parameters"]["binary_data_size"]
    assert header + size == len(body)
    array = np.frombuffer(body[header:], DTYPE_OF[given["datatype"]]).reshape(given["shape"])
    with open_engine(model, backend="onnxruntime") as engine:
        results = engine.run({given["name"]: array})
    names = {dtype: name for name, dtype in DTYPE_OF.items()}
    outputs = [
        {
            "name": name,
            "shape": results[name].shape,
            "datatype": names[results[name].dtype.name],
            "parameters": {"binary_data_size": results[name].nbytes},
        }
        for name in reversed([output["name"] for output in asked["outputs"] if output["parameters"]["binary_data"]])
    ]
    head = json.dumps({"model_name": "any", "outputs": outputs}).encode()
    return len(head).to_bytes(4, "big") + head + b"".join(results[output["name"]].tobytes() for output in outputs)


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serve the graphs of a repository; gives the address."""
    servers: list[HTTPServer] = []

    def start(repository: Path) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                version, kind, name, verb = self.path.strip("/").split("/")
                assert (version, kind, verb) == ("v2", "models", "infer")
                body = self.rfile.read(int(self.headers["Content-Length"]))
                model = onnx.load(repository / unquote(name) / "1" / "model.onnx")
                told = answer(model, body, int(self.headers["Inference-Header-Content-Length"]))
                self.send_response(200)
                self.send_header("Inference-Header-Content-Length", str(int.from_bytes(told[:4], "big")))
                self.send_header("Content-Length", str(len(told) - 4))
                self.end_headers()
                self.wfile.write(told[4:])

            def log_message(self, format: str, *args: Any) -> None:
                del format, args

        servers.append(HTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def not_a_number(bundle: Bundle) -> Bundle:
    """The same bundle, but its network gives NaN."""
    path = bundle.folder / "fp32.onnx"
    model = onnx.load(path)
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "last.bias")
    bias.CopyFrom(helper.make_tensor(bias.name, bias.data_type, bias.dims, [float("nan")] * bias.dims[0]))
    onnx.save(model, path)
    return bundle
