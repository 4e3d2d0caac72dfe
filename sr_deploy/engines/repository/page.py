"""What a person finds in a repository: the README, and a client."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from string import Template

from sr_deploy.engines.repository.network import GraphForm, RepositoryNetwork, ServerName
from sr_deploy.engines.tensorrt.cache import EngineRecord

_START: dict[ServerName, str] = {
    "triton": """\
# YY.MM is a release of the server; without a GPU, leave --gpus out
docker run --rm --gpus all -p 8000:8000 -v "$PWD":/models:ro nvcr.io/nvidia/tritonserver:YY.MM-py3 \\
    tritonserver --model-repository=/models""",
    "openvino": """\
docker run --rm -p 8000:8000 -v "$PWD":/models:ro openvino/model_server:latest \\
    --config_path /models/config.json --rest_port 8000""",
}
_TITLE: dict[ServerName, str] = {"triton": "Triton Inference Server", "openvino": "OpenVINO Model Server"}

_README = Template("""\
# Networks for $title

Made by `sr-deploy repository`. Start the server in this folder, and ask it for a picture:

```console
$start
python client.py $first photo.png large.png
```

| network | makes images | file | in | out | sides | memory | license |
|---|---|---|---|---|---|---|---|
$rows

Sides are those that an image may have, in pixels. Memory is what the network needs while it computes, in MB of fp32 per
megapixel of the input.
$plans
## What is lost

The server runs the graph and nothing else. Beside `sr-deploy upscale` and `Upscaler`, this is missing:

- **Tiles.** An image is computed whole, and takes the memory above. One that does not fit is an error of the server: cut it up
  before, with a margin of the halo in the network's card. An image whose sides are not right is refused: mirror it to size
  before, and crop the result.
- **Color.** The network takes 8-bit RGB$luma. Alpha, gray, 16 bits, CMYK, color profiles and the orientation of a
  photo are the client's; `client.py` drops them.
- **The sentinel.** $sentinel
  A collapsed image is not recognized, and nothing is computed again in fp32.
- **What was measured for a machine**: bf16, tiles, threads. The certificate of a bundle holds for its graphs, not for the
  runtime of the server.
""")

_SENTINEL: dict[GraphForm, str] = {
    "pixels": "NaN and Inf become bytes like others. `health` of an image is NaN or Inf then, and the client has to look.",
    "float": "NaN and Inf reach the client, which has to look.",
}

_CLIENT = Template('''\
"""Upscales a picture on the server: python client.py NETWORK photo.png large.png [http://HOST:PORT]"""

import json
import sys
from urllib import parse, request

import numpy as np
from PIL import Image

network, source, target, server = [*sys.argv[1:4], *(sys.argv[4:] or ["http://localhost:8000"])]
image = np.atleast_3d(Image.open(source).convert($mode))[None]$as_floats
given = [{"name": "$input", "shape": image.shape, "datatype": "$datatype", "parameters": {"binary_data_size": image.nbytes}}]
types = $types
wanted = [{"name": name, "parameters": {"binary_data": True}} for name in types]
head = json.dumps({"inputs": given, "outputs": wanted}).encode()
address = f"{server}/v2/models/{parse.quote(network)}/infer"
asked = request.Request(address, head + image.tobytes(), {"Inference-Header-Content-Length": str(len(head))})
with request.urlopen(asked) as answer:
    body, at, results = answer.read(), int(answer.headers["Inference-Header-Content-Length"]), {}
for output in json.loads(body[:at])["outputs"]:
    results[output["name"]] = np.frombuffer(body, types[output["name"]], np.prod(output["shape"]), at).reshape(output["shape"])
    at += results[output["name"]].nbytes
assert np.isfinite(results["$checked"]).all(), "the network gave NaN or Inf"
large = $picture
Image.fromarray($shown).save(target)
''')
_AS_FLOATS = "\nimage = np.ascontiguousarray(image.transpose(0, 3, 1, 2) / np.float32(255), np.$dtype)"
_AS_BYTES = "np.rint({}.transpose(1, 2, 0) * np.float32(255)).astype(np.uint8)"


def readme_of(networks: Sequence[RepositoryNetwork], server: ServerName, form: GraphForm) -> str:
    """The text of README.md."""
    has_luma = any(network.card.channels == 1 for network in networks)
    return _README.substitute(
        title=_TITLE[server],
        start=_START[server],
        first=shlex.quote(networks[0].name),
        rows="\n".join(map(_row, networks)),
        plans="".join(_plan(network.name, network.plan) for network in networks if network.plan),
        luma=", or luma alone where the table has one channel" if has_luma else "",
        sentinel=_SENTINEL[form],
    )


def client_of(networks: Sequence[RepositoryNetwork], form: GraphForm) -> str:
    """The text of client.py: it needs numpy and Pillow, and speaks the v2 protocol of KServe, which both servers know."""
    first = networks[0]
    source = first.inputs[0]
    floats = form == "float"
    result = f'results["{first.outputs[0].name}"][0]'
    picture = _AS_BYTES.format(result) if floats else result
    luma = [network.name for network in networks if network.card.channels == 1]
    is_luma = f"network in {json.dumps(luma, ensure_ascii=False)}"
    return _CLIENT.substitute(
        mode=f'"L" if {is_luma} else "RGB"' if luma else '"RGB"',
        as_floats=Template(_AS_FLOATS).substitute(dtype=source.dtype.name) if floats else "",
        input=source.name,
        datatype={"uint8": "UINT8", "float16": "FP16", "float32": "FP32"}[source.dtype.name],
        types=json.dumps({output.name: output.dtype.name for output in first.outputs}),
        checked=first.outputs[-1].name,
        picture=picture,
        shown=f"large[..., 0] if {is_luma} else large" if luma else "large",
    )


def _row(network: RepositoryNetwork) -> str:
    card = network.card
    step = f", multiples of {card.size_multiple}" if card.size_multiple > 1 else ""
    license_name = card.source.license if card.source else "unknown"
    cells = (
        network.name,
        f"{card.scale} times as large",
        f"{network.file}, {network.precision}",
        "; ".join(f"`{tensor}`" for tensor in network.inputs),
        "; ".join(f"`{tensor}`" for tensor in network.outputs),
        f"from {card.min_size}{step}",
        f"{card.activation_bytes}" if card.activation_bytes else "unknown",
        license_name,
    )
    return f"| {' | '.join(cells)} |"


def _plan(name: str, record: EngineRecord) -> str:
    key = record.key
    (shapes,) = key.shapes.values()
    sizes = " to ".join(dict.fromkeys("x".join(map(str, shape)) for shape in (shapes[0], shapes[2])))
    return (
        f"\n`{name}` is a plan of {key.library} {key.version} for {key.gpu}, for inputs of {sizes}: another version or another "
        "GPU does not load it.\n"
    )
