"""Requests that mean no good: damaged files, wrong headers, forms that end nowhere, paths that lead out, huge claims.

Seeded, so that a request that does harm can be sent again: `request(seed, TOKEN)` is the same bytes each time.
"""

from __future__ import annotations

import json
import random
import re
import socket
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from urllib.parse import quote

import cv2
import numpy as np
from mutations import damage_bytes

_SUFFIXES = (".png", ".jpg", ".webp", ".tiff", ".avif", ".bmp", ".ppm")
_NAMES = (
    *(
        "../../../../etc/passwd",
        "..\\..\\boot.ini",
        "/etc/shadow",
        "a\0b.png",
        "\u202egnp.exe",
        "." * 300,
        "",
        "con",
        "%2e%2e%2f",
    ),
    *("a" * 5000, 'x"; filename="y', "\r\nSet-Cookie: a=b"),
)
_VALUES = (
    *(
        "",
        "0",
        "-1",
        "1e999",
        "nan",
        "inf",
        "4k",
        "99999999999x1",
        "1x99999999999",
        "long=0",
        "\ud800",
        "\0",
        "../x",
        "true",
        "9" * 5000,
    ),
    *("fast-x2", "fast", "<script>", "%", "😀"),
)
_PARAMETERS = ("model", "scale", "to", "format", "quality", "fp32", "name", "unknown")


@dataclass(frozen=True)
class Hostile:
    """One request. kind: of harm; data: what is sent; patience: seconds that its answer is waited for."""

    kind: str
    data: bytes
    patience: float = 30.0


@cache
def _files() -> tuple[bytes, ...]:
    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    return tuple(cv2.imencode(suffix, noise)[1].tobytes() for suffix in _SUFFIXES)


def request(seed: int, token: str) -> Hostile:
    """The hostile request of that number."""
    dice = random.Random(seed)
    kind = dice.choice(list(_KINDS))
    return Hostile(kind, _KINDS[kind](dice, token), 0.05 if kind == "slow" else 30.0)


def _http(token: str, path: str, body: bytes = b"", method: str = "POST", headers: dict[str, str] | None = None) -> bytes:
    given = {"Host": "127.0.0.1", "Authorization": f"Bearer {token}", "Content-Length": str(len(body)), "Connection": "close"}
    given |= headers or {}
    lines = "".join(f"{name}: {value}\r\n" for name, value in given.items())
    return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode("utf-8", "replace") + body


def _damaged(dice: random.Random) -> bytes:
    data, other = dice.choice(_files()), dice.choice(_files())
    return data if dice.random() < 0.1 else damage_bytes(dice, data, other)[0]


def _query(dice: random.Random) -> str:
    chosen = dice.sample(_PARAMETERS, dice.randrange(4))
    return "&".join(f"{name}={quote(dice.choice(_VALUES), errors='surrogatepass')}" for name in chosen)


def _body(dice: random.Random, token: str) -> bytes:
    return _http(token, dice.choice(("/v1/upscale", "/v1/jobs")), _damaged(dice))


def _parameters(dice: random.Random, token: str) -> bytes:
    return _http(token, f"{dice.choice(('/v1/upscale', '/v1/jobs'))}?{_query(dice)}", dice.choice(_files()))


def _headers(dice: random.Random, token: str) -> bytes:
    odd = {
        "Content-Length": dice.choice(("-1", "x", "9" * 30, "1, 2", "0x10", "")),
        "Transfer-Encoding": dice.choice(("chunked", "gzip", "chunked, chunked")),
        "Content-Encoding": dice.choice(("gzip", "\xff", "br" * 1000)),
        "Content-Type": dice.choice(("multipart/form-data", "multipart/form-data; boundary=", "\0", "image/" + "x" * 5000)),
        "Accept": dice.choice(("image/*;q=nan", ";;;,,,q", "*/*;q=-1", "a" * 9000, "image/png;q=1e999")),
        "Authorization": dice.choice((f"Bearer {token}é", "Bearer " + "x" * 5000, f"bearer  {token}")),
        "Range": dice.choice(("bytes=-", "bytes=9-1", "bytes=" + "0-1," * 500)),
        "Host": dice.choice(("", "a" * 5000, "[::1", "evil.example")),
        "Origin": dice.choice(("null", "https://evil.example", "\x01")),
        "Expect": "100-continue",
        "Inference-Header-Content-Length": dice.choice(("-1", "9" * 30, "x")),
        "X-Long": "y" * dice.choice((10, 70_000)),
    }
    chosen = {name: odd[name] for name in dice.sample(list(odd), dice.randrange(1, 4))}
    path = dice.choice(("/v1/upscale", "/v1/jobs", "/v2/models/fast-x2/infer", "/v1/models"))
    return _http(
        token, path, dice.choice((b"", dice.choice(_files()))), dice.choice(("POST", "GET", "PUT", "FOO", "HEAD")), chosen
    )


def _form(dice: random.Random, token: str) -> bytes:
    edge = dice.choice(("edge", "-", "x" * 69, "a b"))
    parts = b""
    for _ in range(dice.choice((0, 1, 2, 50))):
        name = dice.choice(_NAMES).encode("utf-8", "replace")
        head = dice.choice((b'Content-Disposition: form-data; name="f"; filename="%s"', b"Content-Disposition: %s", b"%s"))
        parts += b"--%s\r\n" % edge.encode() + head % name + b"\r\n\r\n" + dice.choice((b"", _damaged(dice))) + b"\r\n"
    parts += dice.choice((b"--%s--\r\n" % edge.encode(), b"--%s" % edge.encode(), b"", dice.randbytes(50)))
    headers = {"Content-Type": f"multipart/form-data; boundary={dice.choice((edge, edge, edge, 'other', ''))}"}
    return _http(token, dice.choice(("/v1/upscale", "/v1/jobs")), parts, headers=headers)


def _slow(dice: random.Random, token: str) -> bytes:
    whole = _http(token, dice.choice(("/v1/upscale", "/v1/jobs")), dice.choice(_files()))
    return whole[: dice.randrange(len(whole))]


def _claim(dice: random.Random, token: str) -> bytes:
    """Few bytes that say they are many."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return len(body).to_bytes(4) + kind + body + zlib.crc32(kind + body).to_bytes(4)

    side = dice.choice((5000, 30_000, 65_000, 2**31 - 1))
    head = side.to_bytes(4) * 2 + bytes((dice.choice((1, 8, 16)), dice.choice((0, 2, 3, 6)), 0, 0, 0))
    rows = zlib.compress(bytes(1 << 20), 9)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    gif = b"GIF89a" + (65535).to_bytes(2, "little") * 2 + b"\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\x02\x02D\x01\0;"
    pnm = b"P6\n99999 99999\n255\n"
    bmp = (
        b"BM"
        + bytes(8)
        + (54).to_bytes(4, "little")
        + (40).to_bytes(4, "little")
        + (60_000).to_bytes(4, "little") * 2
        + bytes(40)
    )
    body = dice.choice((png, png, gif, pnm, bmp))
    huge = {"Content-Length": str(10 ** dice.choice((9, 12, 15)))} if dice.random() < 0.3 else {}
    return _http(token, dice.choice(("/v1/upscale?to=8k", "/v1/upscale", "/v1/jobs")), body, headers=huge)


def _path(dice: random.Random, token: str) -> bytes:
    name = quote(dice.choice(_NAMES), safe=dice.choice(("", "/.")), errors="replace")
    roots = (
        "/v1/jobs/{}",
        "/v1/jobs/{}/results/0",
        "/v1/jobs/{}/events",
        "/v2/models/{}",
        "/v2/models/{}/infer",
        "/{}",
        "//v1/{}",
    )
    path = dice.choice((*roots, "/v1/jobs/" + "0" * 32 + "/results/{}")).format(name)
    return _http(token, path, method=dice.choice(("GET", "DELETE", "POST", "PATCH")))


def _token(dice: random.Random, token: str) -> bytes:
    wrong = dice.choice((token[:-1], token + "x", "", "\xff", "é" * 100, token.upper()))
    path = dice.choice(("/v1/upscale", "/v1/jobs", "/v1/models", "/v2/models/fast-x2/infer", "/metrics"))
    return _http(token, path, dice.choice(_files()), headers={"Authorization": f"Bearer {wrong}"})


def _tensor(dice: random.Random, token: str) -> bytes:
    sides = [dice.choice((0, 1, 2, 3, -1, 10**9, 10**40)) for _ in range(dice.choice((0, 3, 4, 4, 5)))]
    data = dice.choice(([], [0] * 12, ["\ud800"], [[[[1] * 3] * 2] * 2], [None], [1e999], {"a": 1}, [2**70] * 12))
    document = {
        "inputs": [
            {
                "name": dice.choice(("pixels", "\ud800")),
                "shape": sides,
                "datatype": dice.choice(("UINT8", "FP32")),
                "data": data,
            }
        ]
    }
    deep = b"[" * dice.choice((1000, 200_000))
    whole = json.dumps(document).encode()
    body = dice.choice((whole, whole[: dice.randrange(len(whole))], deep, b"\xff" * 100, whole + bytes(12)))
    headers = {"Inference-Header-Content-Length": str(dice.choice((0, len(whole), 10**6)))} if dice.random() < 0.5 else {}
    return _http(token, "/v2/models/fast-x2/infer", body, headers=headers)


def _playlist(dice: random.Random, token: str) -> bytes:
    """What would have FFmpeg open other files."""
    texts = (
        b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
        b"ffconcat version 1.0\nfile '/etc/passwd'\n",
        b"v=0\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n",
        b"<?xml version='1.0'?><MPD/>",
    )
    start = dice.choice((b"", b"\x1aE\xdf\xa3", b"\0\0\0\x18ftypmp42", b"RIFF\0\0\0\0AVI ", b"G" + bytes(187) + b"G"))
    return _http(token, "/v1/jobs", start + dice.choice(texts) + dice.randbytes(dice.randrange(300)))


_KINDS: dict[str, Callable[[random.Random, str], bytes]] = {
    "body": _body,
    "parameters": _parameters,
    "headers": _headers,
    "form": _form,
    "slow": _slow,
    "claim": _claim,
    "path": _path,
    "token": _token,
    "tensor": _tensor,
    "playlist": _playlist,
}


def answer_to(hostile: Hostile, host: str, port: int) -> int | None:
    """The status that the service answers with; None where it closes without a word, or is not waited for."""
    received = b""
    with socket.create_connection((host, port), 30) as line:
        line.settimeout(hostile.patience)
        try:
            line.sendall(hostile.data)
            while part := line.recv(65536):
                received = (received + part)[:100]
        except OSError:
            pass
    found = re.match(rb"(?:HTTP/1\.1 100 Continue\r\n\r\n)?HTTP/1\.1 (\d{3})", received)
    return int(found[1]) if found else None
