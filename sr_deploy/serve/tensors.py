"""The open inference protocol (KServe v2): uint8 tensors (N,H,W,3) in and out, in JSON or behind it.

Source: https://github.com/kserve/open-inference-protocol; its binary extension: NVIDIA Triton's extension_binary_data.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field, ValidationError

from sr_deploy import __version__
from sr_deploy.arrays import Array
from sr_deploy.serve.answers import ERRORS, JsonAnswer, RefusedError
from sr_deploy.serve.asked import LARGEST_RESULT, check_pixels
from sr_deploy.serve.networks import ServedNetwork
from sr_deploy.serve.service import Service
from sr_deploy.serve.uploads import body
from sr_deploy.upscaling.image_upscaler import ImageUpscaler

INPUT, OUTPUT = "pixels", "upscaled"
_JSON_LENGTH = "inference-header-content-length"
_MOST_JSON = 1 << 20
"""Bytes of it, where tensors stand behind."""

_MOST_VALUES = 1 << 22
"""Of a result in JSON, which takes many times its bytes."""

_MOST_DIGITS = 20


class Tensor(BaseModel):
    """A tensor of a request. data: nested or flat; without it the bytes stand behind the JSON."""

    name: str
    shape: list[Annotated[int, Field(ge=1, le=1 << 30)]] = Field(min_length=4, max_length=4)
    datatype: str
    parameters: dict[str, Any] = {}
    data: list[Any] | None = None


class WantedTensor(BaseModel):
    """A tensor that the client wants."""

    name: str
    parameters: dict[str, Any] = {}


class InferRequest(BaseModel):
    """What is to be computed of what."""

    id: str | None = None
    parameters: dict[str, Any] = {}
    inputs: list[Tensor] = Field(min_length=1, max_length=1)
    outputs: list[WantedTensor] | None = None

    @property
    def wants_bytes(self) -> bool:
        """Whether the result goes behind the JSON."""
        usual = self.parameters.get("binary_data_output") is True
        return any(output.parameters.get("binary_data", usual) is True for output in self.outputs or ()) or (
            not self.outputs and usual
        )


class TensorFacts(BaseModel):
    """A tensor of a network; -1 is any number."""

    name: str
    datatype: str = "UINT8"
    shape: list[int] = [-1, -1, -1, 3]


class NetworkFacts(BaseModel):
    """A network, as the protocol describes it."""

    name: str
    versions: list[str] = ["1"]
    platform: str = "sr-deploy"
    inputs: list[TensorFacts] = [TensorFacts(name=INPUT)]
    outputs: list[TensorFacts] = [TensorFacts(name=OUTPUT)]


class ServerFacts(BaseModel):
    """The service, as the protocol describes it."""

    name: str = "sr-deploy"
    version: str = __version__
    extensions: list[str] = ["binary_tensor_data"]


def parse(data: bytes | bytearray, header_length: str | None, most_pixels: int) -> tuple[InferRequest, Array]:
    """The request in a body, and its images (N,H,W,3) uint8.

    header_length: bytes of the JSON, where tensors stand behind it.

    Raises: RefusedError.
    """
    length = len(data)
    if header_length is not None:
        length = int(header_length) if header_length.isdecimal() and len(header_length) < _MOST_DIGITS else length + 1
        if length > len(data):
            raise RefusedError(422, f"{_JSON_LENGTH} of {header_length[:_MOST_DIGITS]}: expected a length within the body")
    try:
        asked = InferRequest.model_validate_json(bytes(data[:length]))
    except ValidationError as exc:
        found = exc.errors()[0]
        where = ".".join(map(str, found["loc"]))
        raise RefusedError(422, f"{where or 'the JSON'}: {found['msg']}") from exc
    tensor = asked.inputs[0]
    if tensor.name != INPUT or tensor.datatype != "UINT8":
        raise RefusedError(422, f"input '{tensor.name}' of {tensor.datatype}: expected '{INPUT}' of UINT8")
    if unknown := [output.name for output in asked.outputs or () if output.name != OUTPUT]:
        raise RefusedError(422, f"output '{unknown[0]}': there is '{OUTPUT}' alone")
    count, height, width, channels = tensor.shape
    if channels != 3:
        raise RefusedError(422, f"shape {tensor.shape}: expected [N, H, W, 3]")
    check_pixels(count * height, width, most_pixels)
    return asked, _images(tensor, memoryview(data)[length:])


def _images(tensor: Tensor, behind: memoryview) -> Array:
    size = math.prod(tensor.shape)
    if tensor.data is None:
        if tensor.parameters.get("binary_data_size") != len(behind) or len(behind) != size:
            raise RefusedError(
                422, f"shape {tensor.shape}: expected {size} bytes behind the JSON, and that as binary_data_size"
            )
        return np.frombuffer(behind, np.uint8).reshape(tensor.shape)
    try:
        values = np.asarray(tensor.data)
        if values.size != size or values.dtype.kind not in "iu" or values.min() < 0 or values.max() > 255:
            raise ValueError
    except (ValueError, OverflowError) as exc:
        raise RefusedError(422, f"data: expected {size} whole numbers from 0 to 255") from exc
    return values.astype(np.uint8).reshape(tensor.shape)


def upscale_images(images: Array, upscaler: ImageUpscaler, check: Callable[[int, int], None]) -> Array:
    """(N,H,W,3) -> (N,sH,sW,3), uint8, one image after the other."""
    return np.stack([upscaler(image, progress=check) for image in images])


def answer(asked: InferRequest, network: ServedNetwork, images: Array) -> Response:
    """The images as the client wants them."""
    tensor: dict[str, Any] = {"name": OUTPUT, "datatype": "UINT8", "shape": list(images.shape)}
    document = {"model_name": network.name, "model_version": "1", "outputs": [tensor]} | ({"id": asked.id} if asked.id else {})
    if not asked.wants_bytes:
        tensor["data"] = images.ravel().tolist()
        return JsonAnswer(document)
    tensor["parameters"] = {"binary_data_size": images.nbytes}
    header = json.dumps(document, separators=(",", ":")).encode("ascii")
    return Response(
        header + images.tobytes(),
        headers={"Inference-Header-Content-Length": str(len(header))},
        media_type="application/octet-stream",
    )


def tensor_routes(service: Service) -> APIRouter:
    """`/v2`, but for its probes."""
    router = APIRouter(prefix="/v2", tags=["KServe v2"])
    limits = service.options.limits
    most_bytes = 3 * limits.most_pixels + _MOST_JSON

    def network_of(name: str) -> ServedNetwork:
        network = service.networks.named(name)
        if network is None:
            raise RefusedError(404, f"model '{name}': not served here; /v1/models lists those that are")
        return network

    @router.get("", summary="The service")
    async def server() -> ServerFacts:
        return ServerFacts()

    @router.get("/models/{name}", summary="A network")
    @router.get("/models/{name}/versions/1", include_in_schema=False)
    async def model(name: str) -> NetworkFacts:
        return NetworkFacts(name=network_of(name).name)

    @router.get("/models/{name}/ready", response_class=Response, summary="Whether a network is there")
    @router.get("/models/{name}/versions/1/ready", response_class=Response, include_in_schema=False)
    async def model_ready(name: str) -> Response:
        network_of(name)
        return Response()

    @router.post(
        "/models/{name}/infer", response_class=Response, responses=ERRORS, openapi_extra=_BODY, summary="Upscale tensors"
    )
    @router.post("/models/{name}/versions/1/infer", response_class=Response, include_in_schema=False)
    async def infer(name: str, request: Request) -> Response:
        network = network_of(name)
        header_length = request.headers.get(_JSON_LENGTH)

        def work() -> Response:
            began = time.perf_counter()
            asked, images = parse(data, header_length, limits.most_pixels)
            rows, columns = images.shape[0] * images.shape[1] * network.scale, images.shape[2] * network.scale
            check_pixels(rows, columns, limits.most_pixels * LARGEST_RESULT)
            if not asked.wants_bytes and 3 * rows * columns > _MOST_VALUES:
                raise RefusedError(413, f"a result of more than {_MOST_VALUES} values in JSON; ask for binary_data_output")
            upscaler = network.open()
            before = upscaler.stats_of_thread
            large = upscale_images(images, upscaler, ticket.check)
            stats = upscaler.stats_of_thread - before
            service.metrics.upscaled(network.name, images[..., 0].size, time.perf_counter() - began, stats)
            return answer(asked, network, large)

        async with service.desk.ticket() as ticket:
            data = await body(request, most_bytes, limits.seconds)
            return await service.desk.run(ticket, request, work)

    return router


def tensor_probes(service: Service) -> APIRouter:
    """`/v2/health`, which needs no token."""
    router = APIRouter(prefix="/v2/health", tags=["KServe v2"])

    @router.get("/live", response_class=Response, summary="Whether the process answers")
    async def server_live() -> Response:
        return Response()

    @router.get("/ready", response_class=Response, summary="Whether requests are taken")
    async def server_ready() -> Response:
        return Response(status_code=503 if service.is_stopping else 200)

    return router


_BODY = {
    "requestBody": {
        "required": True,
        "description": "The request in JSON; with Inference-Header-Content-Length, the tensor's bytes behind it.",
        "content": {
            "application/json": {"schema": InferRequest.model_json_schema(ref_template="#/components/schemas/{model}")},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}
