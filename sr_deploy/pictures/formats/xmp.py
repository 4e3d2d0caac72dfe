"""XMP without what it promises of the rest of a file that is no longer there: gain maps, motion video, depth maps."""

from __future__ import annotations

import re

_GONE: tuple[tuple[bytes, bytes, str], ...] = (
    (b"http://ns.adobe.com/hdr-gain-map/1.0/", rb"\w+", "gain map"),
    (b"http://ns.apple.com/HDRGainMap/1.0/", rb"\w+", "gain map"),
    (b"http://ns.google.com/photos/1.0/camera/", rb"(?:MotionPhoto|MicroVideo)\w*", "motion video"),
    (b"http://ns.google.com/photos/1.0/container/", rb"\w+", ""),
    (b"http://ns.google.com/photos/1.0/container/item/", rb"\w+", ""),
    (b"http://ns.google.com/photos/1.0/depthmap/", rb"\w+", "depth map"),
    (b"http://ns.google.com/photos/1.0/image/", rb"\w+", "second picture"),
    (b"http://ns.google.com/photos/1.0/audio/", rb"\w+", "sound"),
    (b"http://ns.google.com/photos/dd/1.0/device/", rb"\w+", "depth map"),
    (b"http://ns.adobe.com/xmp/note/", rb"HasExtendedXMP", "extended XMP"),
)
"""Namespace, names of fields in it, and what they promise."""
_LONGEST = 1 << 18
"""Of packets that are searched; longer ones that promise something are left out whole."""
_THUMBNAILS = (b"http://ns.adobe.com/xap/1.0/", rb"Thumbnails", "")


def without_promises(xmp: bytes) -> tuple[bytes, tuple[str, ...]]:
    """The packet without these fields, and what they promised, each once; everything else stays byte for byte."""
    if len(xmp) > _LONGEST:
        promises = [what for namespace, _, what in _GONE if namespace in xmp and what]
        return (b"", ("XMP", *dict.fromkeys(promises))) if promises else (xmp, ())
    promised: list[str] = []
    for namespace, names, what in _GONE:
        shorter = _without(xmp, namespace, names)
        if shorter != xmp and what:
            promised.append(what)
        xmp = shorter
    return xmp, tuple(dict.fromkeys(promised))


def without_thumbnails(xmp: bytes) -> bytes:
    """The packet without small copies of the picture."""
    return _without(xmp, *_THUMBNAILS[:2])


def _without(xmp: bytes, namespace: bytes, names: bytes) -> bytes:
    for found in re.findall(rb"xmlns:([\w.-]+)\s*=\s*[\"']" + re.escape(namespace) + rb"[\"']", xmp):
        name = re.escape(found) + rb":" + names
        xmp = re.sub(rb"<(" + name + rb")\b[^>]*(?<!/)>.*?</\1\s*>\s*", b"", xmp, flags=re.DOTALL)
        xmp = re.sub(rb"<" + name + rb"\b[^>]*/>\s*", b"", xmp)
        xmp = re.sub(rb"\s" + name + rb"\s*=\s*(?:\"[^\"]*\"|'[^']*')", b"", xmp)
        if found + b":" not in xmp.replace(b"xmlns:" + found, b""):
            xmp = re.sub(rb"\sxmlns:" + re.escape(found) + rb"\s*=\s*(?:\"[^\"]*\"|'[^']*')", b"", xmp)
    return xmp
