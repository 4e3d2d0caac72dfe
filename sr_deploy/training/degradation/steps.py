"""Single steps of a degradation: (H, W, 3) uint8 RGB -> the same, of the same size unless it says otherwise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from sr_deploy.arrays import Array
from sr_deploy.training.degradation.settings import ChromaSampling, ResamplingKernel

_REACH = 3
"""Sigmas on each side of a kernel."""

_FEW = 50
"""Photons whose number is drawn as it is; more are near enough to normal, which is drawn six times as fast."""


def gaussian_kernel(sigma_x: float, sigma_y: float, angle: float) -> Array:
    """(2r+1, 2r+1) float32 with the sum 1, r three of the larger sigma: sigma_x along `angle`, in radians from the x axis,
    sigma_y across it."""
    radius = max(1, math.ceil(_REACH * max(sigma_x, sigma_y)))
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    along, across = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    kernel = np.exp(-0.5 * ((along / sigma_x) ** 2 + (across / sigma_y) ** 2))
    return np.asarray(kernel / kernel.sum(), np.float32)


def blurred(image: Array, sigma_x: float, sigma_y: float, angle: float) -> Array:
    """Convolved with that kernel; borders are mirrored about the outermost pixel."""
    import cv2

    if sigma_x == sigma_y:
        side = 2 * max(1, math.ceil(_REACH * sigma_x)) + 1
        return np.asarray(cv2.GaussianBlur(image, (side, side), sigma_x, borderType=cv2.BORDER_REFLECT_101))
    kernel = gaussian_kernel(sigma_x, sigma_y, angle)
    return np.asarray(cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REFLECT_101))


def resized(image: Array, height: int, width: int, kernel: ResamplingKernel, *, antialias: bool) -> Array:
    """Of another size. With `antialias`, the kernel widens by the factor that the image shrinks by, and bicubic is Keys' with
    a = -0.5, else -0.75; area is the mean over what a pixel covers."""
    import cv2
    from PIL import Image

    if kernel == "area" or not antialias:
        ways = {"area": cv2.INTER_AREA, "bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC}
        return np.asarray(cv2.resize(image, (width, height), interpolation=ways[kernel]))
    way = Image.Resampling.BILINEAR if kernel == "bilinear" else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(image).resize((width, height), way))


def with_gaussian_noise(image: Array, sigma: float, *, gray: bool, random: np.random.Generator) -> Array:
    """`sigma` in steps of 8 bits; `gray` noise is the same in all channels."""
    shape = (*image.shape[:2], 1) if gray else image.shape
    return _rounded(image + np.float32(sigma) * random.standard_normal(shape, np.float32))


def with_shot_noise(image: Array, peak: float, *, gray: bool, random: np.random.Generator) -> Array:
    """Photons counted, `peak` of them where the image is white; `gray` counts those of the mean of the channels, and what they
    are too many or too few goes to all channels. Many are drawn as a normal number."""
    light = image.mean(2, keepdims=True, dtype=np.float32) if gray else image.astype(np.float32)
    expected = light * np.float32(peak / 255)
    surplus = np.sqrt(expected) * random.standard_normal(expected.shape, np.float32)
    few = expected < _FEW
    surplus[few] = random.poisson(expected[few]) - expected[few]
    return _rounded(image + surplus * np.float32(255 / peak))


def jpeg_bytes(image: Array, quality: int, subsampling: ChromaSampling) -> bytes:
    """The image as a baseline JPEG file."""
    import cv2

    factor = {
        "4:4:4": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
        "4:2:2": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422,
        "4:2:0": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
    }[subsampling]
    options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factor]
    _, data = cv2.imencode(".jpg", image[..., ::-1], options)
    return data.tobytes()


def as_jpeg(image: Array, quality: int, subsampling: ChromaSampling) -> Array:
    """What a JPEG file of the image shows."""
    import cv2

    data = np.frombuffer(jpeg_bytes(image, quality, subsampling), np.uint8)
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR_RGB))


def h264_packets(frames: Sequence[Array], crf: int) -> list[bytes]:
    """The frames as H.264 in 4:2:0, each as a key frame or from the one before it; sides are even."""
    import av

    height, width = frames[0].shape[:2]
    encoder = av.VideoCodecContext.create("libx264", "w")
    assert isinstance(encoder, av.VideoCodecContext)
    encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv420p"
    encoder.time_base, encoder.framerate = Fraction(1, 25), Fraction(25)
    encoder.options = {"crf": str(crf), "preset": "veryfast", "tune": "zerolatency", "threads": "1"}
    pictures = [av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), "rgb24") for frame in frames]
    for index, picture in enumerate(pictures):
        picture.pts = index
    return [bytes(packet) for picture in (*pictures, None) for packet in encoder.encode(picture)]


def as_video(image: Array, crf: int, frames: int, shift: tuple[int, int]) -> Array:
    """What the last of `frames` of an H.264 stream shows, over which the image moves by `shift` pixels down and right each.

    What comes in at the borders is mirrored, and so are odd sides.
    """
    import av
    import cv2

    height, width = image.shape[:2]
    down, right = (abs(step) * (frames - 1) for step in shift)
    edges = (down, down + height % 2, right, right + width % 2)
    padded = cv2.copyMakeBorder(image, *edges, borderType=cv2.BORDER_REFLECT_101)
    places = [(down - shift[0] * left, right - shift[1] * left) for left in range(frames - 1, -1, -1)]
    moving = [padded[y : y + height + height % 2, x : x + width + width % 2] for y, x in places]
    decoder = av.VideoCodecContext.create("h264", "r")
    packets = [av.Packet(data) for data in h264_packets(moving, crf)]
    shown = [frame for packet in (*packets, None) for frame in decoder.decode(packet)]
    return np.asarray(shown[-1].to_ndarray(format="rgb24")[:height, :width])


def _rounded(image: Array) -> Array:
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)
