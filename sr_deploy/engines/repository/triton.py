"""`config.pbtxt`: what Triton Inference Server wants to know of a network."""

from __future__ import annotations

import json
from collections.abc import Sequence

from sr_deploy.engines.engine import TensorSpec
from sr_deploy.engines.repository.network import RepositoryNetwork

CONFIG_FILE = "config.pbtxt"

_TYPE_OF = {"uint8": "TYPE_UINT8", "float16": "TYPE_FP16", "float32": "TYPE_FP32"}


def config_of(network: RepositoryNetwork, *, instances: int, gpus: Sequence[int]) -> str:
    """The text, in protobuf's own format. `gpus` empty leaves it to the server where the network runs.

    Where the number of images may vary, requests for images of one size that wait together run together.

    Source: ModelConfig of Triton's model_config.proto.
    """
    backend = "tensorrt" if network.plan else "onnxruntime"
    lines = [
        f"name: {_quoted(network.name)}",
        f"backend: {_quoted(backend)}",
        f"default_model_filename: {_quoted(network.file)}",
        f"max_batch_size: {network.most}",
    ]
    for kind, tensors in (("input", network.inputs), ("output", network.outputs)):
        lines += [line for tensor in tensors for line in _tensor(kind, tensor, batched=network.most > 0)]
    if network.most > 1:
        lines += ["dynamic_batching { }"]
    lines += ["instance_group {", f"  count: {instances}", *(f"  {line}" for line in _place(gpus, network)), "}"]
    return "\n".join(lines) + "\n"


def _tensor(kind: str, tensor: TensorSpec, *, batched: bool) -> list[str]:
    """Without the number of images where the server adds it; a number for each image is then a vector of one."""
    sizes = tensor.shape[1:] if batched else tensor.shape
    dims = ", ".join(map(str, sizes or (1,)))
    shape = [] if sizes else ["  reshape { shape: [ ] }"]
    facts = (f"  name: {_quoted(tensor.name)}", f"  data_type: {_TYPE_OF[tensor.dtype.name]}", f"  dims: [ {dims} ]")
    return [f"{kind} {{", *facts, *shape, "}"]


def _place(gpus: Sequence[int], network: RepositoryNetwork) -> list[str]:
    if gpus:
        return ["kind: KIND_GPU", f"gpus: [ {', '.join(map(str, gpus))} ]"]
    return ["kind: KIND_GPU" if network.plan else "kind: KIND_AUTO"]


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
