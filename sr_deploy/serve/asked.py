"""What a client asks for, beside the file: network, size, format; the same of pictures, jobs and tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sr_deploy.errors import UsageError
from sr_deploy.pictures.formats import ContainerError, Header, TooManyPixelsError, UnknownFormatError, inspect
from sr_deploy.pictures.size import LARGEST_FACTOR, TargetSize
from sr_deploy.serve.answers import RefusedError
from sr_deploy.serve.options import Limits

LARGEST_RESULT = 16
"""Times the most pixels of a picture that a result may have."""

MEDIA_TYPES = {
    "png": "image/png",
    "jpeg": "image/jpeg",
    "webp": "image/webp",
    "tiff": "image/tiff",
    "avif": "image/avif",
    "bmp": "image/bmp",
}
"""Formats that are written, by their names."""

PictureFormat = Literal["png", "jpeg", "jpg", "webp", "tiff", "tif", "avif", "bmp"]
_SHORT: dict[str, str] = {"jpg": "jpeg", "tif": "tiff"}

Name = Annotated[str, Field(max_length=255)]


class Asked(BaseModel):
    """Parameters of any request for pixels."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    model: Name | None = Field(None, description="The network, as /v1/models lists them, or a name of several scales.")
    scale: float | None = Field(None, gt=0, le=LARGEST_FACTOR, allow_inf_nan=False, description="Factor of the result.")
    to: Name | None = Field(None, description="Size of the result: 4k, 1080p, WIDTHxHEIGHT, long=N, short=N.")
    quality: int | None = Field(None, ge=1, le=100, description="Of the lossy formats.")
    fp32: bool = Field(False, description="Compute in fp32.")

    def size(self) -> TargetSize | None:
        """What the result is resampled to; None is the network's own factor. Raises: UsageError."""
        return target_size(self.scale, self.to)

    def factor(self) -> float | None:
        """What a network of several scales is chosen by. Raises: UsageError."""
        size = self.size()
        return size.numbers[0] if size is not None and size.kind == "factor" else None


def target_size(scale: float | None, to: str | None) -> TargetSize | None:
    """The size that a factor or a text stands for; None is the network's own factor. Raises: UsageError."""
    if scale is not None and to is not None:
        raise UsageError("scale and to contradict each other; give one of them")
    if to is not None:
        return TargetSize.parse(to)
    return None if scale is None else TargetSize.of_factor(scale)


class PictureAsked(Asked):
    """Parameters of a request for one picture."""

    format: PictureFormat | None = Field(None, description="Of the result; without it Accept decides, then the picture's own.")


A = TypeVar("A", bound=Asked)


def asked_in(request: Request, kind: type[A]) -> A:
    """The parameters in a request's query; FastAPI would look at their types anew each time.

    Raises: RequestValidationError for those that are wrong or unknown.
    """
    try:
        return kind.model_validate(dict(request.query_params))
    except ValidationError as exc:
        raise RequestValidationError([{**error, "loc": ("query", *error["loc"])} for error in exc.errors()]) from exc


def described(kind: type[Asked]) -> list[dict[str, Any]]:
    """The parameters for OpenAPI."""
    return [
        {"name": name, "in": "query", "required": False, "schema": schema, "description": schema["description"]}
        for name, schema in kind.model_json_schema()["properties"].items()
    ]


def check_picture(data: memoryview, limits: Limits) -> Header:
    """The header of a picture, once it is known to be one of a size that is served; nothing is decoded.

    Raises: RefusedError.
    """
    try:
        header = inspect(data, deep=False)
    except UnknownFormatError as exc:
        raise RefusedError(415, str(exc)) from exc
    except TooManyPixelsError as exc:
        raise RefusedError(413, str(exc)) from exc
    except ContainerError as exc:
        raise RefusedError(422, str(exc)) from exc
    check_pixels(header.height, header.width, limits.most_pixels)
    return header


def check_pixels(height: int, width: int, most: int) -> None:
    """Raises: RefusedError for more than `most`."""
    if height * width > most:
        raise RefusedError(413, f"{width}x{height} pixels are more than {most}, which is the most; send a smaller picture")


def check_result(height: int, width: int, scale: int, size: TargetSize | None, limits: Limits) -> tuple[int, int]:
    """Height and width of the result of a picture of that size.

    Raises: RefusedError for a result that is too large, also before it is resampled; ImageError.
    """
    check_pixels(height * scale, width * scale, limits.most_pixels * LARGEST_RESULT)
    sides = (height * scale, width * scale) if size is None else size.resolve(height, width, scale)
    check_pixels(*sides, limits.most_pixels * LARGEST_RESULT)
    return sides


def format_for(asked: PictureFormat | None, accept: str, source: str) -> str:
    """The format of the result, by its name.

    asked: in the query. accept: the header. source: the format that the picture has.

    Raises: RefusedError where the client accepts none that is written.
    """
    if asked is not None:
        return _SHORT.get(asked, asked)
    own = source if source in MEDIA_TYPES else "png"
    if not accept:
        return own
    weights = _weights(accept)
    names = sorted(MEDIA_TYPES, key=lambda name: name != own)
    best = max(names, key=lambda name: _weight(MEDIA_TYPES[name], weights))
    if _weight(MEDIA_TYPES[best], weights) <= 0:
        raise RefusedError(406, f"accept '{accept[:255]}': none of {', '.join(MEDIA_TYPES.values())}; accept one of them")
    return best


def _weights(accept: str) -> dict[str, float]:
    """By media range, as RFC 9110, 12.5.1, has it."""
    weights = {}
    for part in accept.lower().split(","):
        media, *parameters = (text.strip() for text in part.split(";"))
        weight = next((text[2:] for text in parameters if text.startswith("q=")), "1")
        try:
            weights[media] = float(weight)
        except ValueError:
            weights[media] = 0.0
    return weights


def _weight(media: str, weights: dict[str, float]) -> float:
    return next((weights[one] for one in (media, "image/*", "*/*") if one in weights), 0.0)


def path_like(format: str) -> Path:
    """What stands for a result's path where the library asks for one."""
    return Path(f"result.{format}")
