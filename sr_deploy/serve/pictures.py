"""One picture in, one picture out, while the client waits."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import quote

from fastapi import APIRouter, Request
from fastapi.responses import Response

from sr_deploy.pictures.image import check_target, decode_image, encode_image, lost_much
from sr_deploy.serve.answers import ERRORS
from sr_deploy.serve.asked import (
    MEDIA_TYPES,
    PictureAsked,
    asked_in,
    check_picture,
    check_result,
    described,
    format_for,
    path_like,
)
from sr_deploy.serve.networks import ServedNetwork
from sr_deploy.serve.service import Service
from sr_deploy.serve.uploads import body
from sr_deploy.upscaling.image_upscaler import Stats

_BYTES = {"schema": {"type": "string", "format": "binary"}}
_REQUEST = {
    "parameters": described(PictureAsked),
    "requestBody": {
        "required": True,
        "description": "PNG, JPEG, WebP, TIFF, AVIF, BMP, GIF, JPEG 2000 or PNM, as the body or as multipart/form-data.",
        "content": {
            "image/*": _BYTES,
            "multipart/form-data": {"schema": {"type": "object", "properties": {"file": _BYTES["schema"]}}},
        },
    },
}
_HEADERS = {
    "X-Network": {"description": "What it was computed by.", "schema": {"type": "string"}},
    "X-Seconds": {"description": "Of decoding, network and encoding.", "schema": {"type": "number"}},
    "X-Tiles": {"description": "Tiles that the network ran on.", "schema": {"type": "integer"}},
    "X-Recomputed": {"description": "Those that were not sane, and computed again in fp32.", "schema": {"type": "integer"}},
    "X-Replaced": {"description": "Those that are bicubic, since fp32 failed too.", "schema": {"type": "integer"}},
}
_RESULT = {
    "description": "The picture, upscaled.",
    "headers": _HEADERS,
    "content": dict.fromkeys(MEDIA_TYPES.values(), _BYTES),
}


@dataclass(frozen=True)
class UpscaledBytes:
    """The file of a result, and what became of its picture. network: its name; pixels: of the source."""

    network: str
    data: bytes
    format: str
    pixels: int
    seconds: float
    stats: Stats


def upscale_bytes(
    data: bytes | bytearray,
    asked: PictureAsked,
    accept: str,
    network: ServedNetwork,
    service: Service,
    check: Callable[[int, int], None],
) -> UpscaledBytes:
    """The bytes of a picture's file -> those of the upscaled one.

    accept: the header of that name. network: what upscales it, `service.networks.restorer` in its place where the client named
    none and the picture lost much. check: called between tiles; what it raises ends the work.

    Raises: RefusedError for what is no picture, or too large; ImageError; what the upscaler raises.
    """
    began = time.perf_counter()
    limits, size = service.options.limits, asked.size()
    header = check_picture(memoryview(data), limits)
    restorer = service.networks.restorer(asked.model, asked.factor())
    if restorer and lost_much(data):
        network = restorer
    format = format_for(asked.format, accept, header.format)
    sides = check_result(header.height, header.width, network.scale, size, limits)
    picture = decode_image(data, name="the picture")
    check(0, 1)
    check_target(path_like(format), picture, *sides)
    upscaler = network.open(fp32=asked.fp32)
    before = upscaler.stats_of_thread
    large = upscaler.upscale_picture(picture, size=size, progress=check)
    stats = upscaler.stats_of_thread - before
    encoded = encode_image(large, format, quality=asked.quality)
    return UpscaledBytes(network.name, encoded, format, header.height * header.width, time.perf_counter() - began, stats)


def picture_routes(service: Service) -> APIRouter:
    """`/v1/upscale`."""
    router = APIRouter(prefix="/v1", tags=["pictures"])
    limits = service.options.limits

    @router.post(
        "/upscale",
        response_class=Response,
        responses={**ERRORS, 200: _RESULT},
        openapi_extra=_REQUEST,
        summary="Upscale a picture",
    )
    async def upscale(request: Request) -> Response:
        asked = asked_in(request, PictureAsked)
        network = service.networks.choose(asked.model, asked.factor())
        accept = request.headers.get("accept", "")
        async with service.desk.ticket() as ticket:
            data = await body(request, limits.most_bytes, limits.seconds)
            result = await service.desk.run(
                ticket, request, lambda: upscale_bytes(data, asked, accept, network, service, ticket.check)
            )
        service.metrics.upscaled(result.network, result.pixels, result.seconds, result.stats)
        return Response(result.data, media_type=MEDIA_TYPES[result.format], headers=_facts(result))

    return router


def _facts(result: UpscaledBytes) -> dict[str, str]:
    return {
        "X-Network": quote(result.network, safe=" !#$&'()*+,/:;<=>?@[]^`{|}"),
        "X-Seconds": f"{result.seconds:.4f}",
        "X-Tiles": str(result.stats.tiles),
        "X-Recomputed": str(result.stats.recomputed),
        "X-Replaced": str(result.stats.replaced),
    }
