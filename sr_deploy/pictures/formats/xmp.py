"""XMP without what it promises of the rest of a file that is no longer there: gain maps, motion video, depth maps.

Every step is one walk over the packet, which may be made to be slow.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from sr_deploy.pictures.formats import ContainerError

_GOOGLE = b"http://ns.google.com/photos/"
_ALL = re.compile(rb".*", re.DOTALL)
_PROMISES: dict[bytes, tuple[re.Pattern[bytes], str]] = {
    b"http://ns.adobe.com/hdr-gain-map/1.0/": (_ALL, "gain map"),
    b"http://ns.apple.com/HDRGainMap/1.0/": (_ALL, "gain map"),
    _GOOGLE + b"1.0/camera/": (re.compile(rb"(?:MotionPhoto|MicroVideo).*"), "motion video"),
    _GOOGLE + b"1.0/container/": (_ALL, ""),
    _GOOGLE + b"1.0/container/item/": (_ALL, ""),
    _GOOGLE + b"1.0/depthmap/": (_ALL, "depth map"),
    _GOOGLE + b"dd/1.0/device/": (_ALL, "depth map"),
    _GOOGLE + b"1.0/image/": (_ALL, "second picture"),
    _GOOGLE + b"1.0/audio/": (_ALL, "sound"),
    b"http://ns.adobe.com/xmp/note/": (re.compile(rb"HasExtendedXMP"), "extended XMP"),
}
"""By namespace, the names of fields in it, and what they promise."""
_THUMBNAILS = {b"http://ns.adobe.com/xap/1.0/": (re.compile(rb"Thumbnails"), "")}
_MOST = 32
"""Prefixes of such namespaces in one packet."""

_VALUE = rb"(?:\"[^\"<]*+\"|'[^'<]*+')"
_DECLARATION = re.compile(rb"\sxmlns:([\w.-]++)\s*+=\s*+(" + _VALUE + rb")")
_ATTRIBUTE = re.compile(rb"\s++([\w.-]++:[\w.-]++)\s*+=\s*+" + _VALUE)
_TAG = re.compile(rb"<(/?)([\w.-]++(?::[\w.-]++)?)((?:[^<>\"'/]++|" + _VALUE + rb"|/(?!>))*+)(/?)>")


def without_promises(xmp: bytes) -> tuple[bytes, tuple[str, ...]]:
    """The packet without these fields, empty when they cannot be told from the rest, and what was left out, each once.

    Everything else stays byte for byte.
    """
    try:
        return _without(xmp, _PROMISES)
    except ContainerError:
        return b"", ("XMP",)


def without_thumbnails(xmp: bytes) -> bytes:
    """The packet without small copies of the picture; a damaged one is returned as it is."""
    try:
        return _without(xmp, _THUMBNAILS)[0]
    except ContainerError:
        return xmp


def _without(xmp: bytes, fields: dict[bytes, tuple[re.Pattern[bytes], str]]) -> tuple[bytes, tuple[str, ...]]:
    """The packet without the fields, and what they promised. Raises: ContainerError when it is damaged."""
    declared = {prefix: fields[uri[1:-1]] for prefix, uri in _DECLARATION.findall(xmp) if uri[1:-1] in fields}
    if not declared:
        return xmp, ()
    if len(declared) > _MOST:
        raise ContainerError("the XMP declares too many prefixes")
    promised: list[str] = []

    def is_gone(name: bytes) -> bool:
        prefix, _, local = name.partition(b":")
        names, what = declared.get(prefix, (None, ""))
        if names is None or not names.fullmatch(local):
            return False
        promised.append(what)
        return True

    result = _cut(xmp, is_gone)
    for prefix in declared:
        if prefix + b":" not in result.replace(b"xmlns:" + prefix, b""):
            result = re.sub(rb"\sxmlns:" + re.escape(prefix) + rb"\s*+=\s*+" + _VALUE, b"", result)
    return result, tuple(dict.fromkeys(filter(None, promised)))


def _cut(xmp: bytes, is_gone: Callable[[bytes], bool]) -> bytes:
    """The packet without the elements and attributes of these names."""
    kept: list[bytes] = []
    position = depth = 0
    inside = b""
    for tag in _TAG.finditer(xmp):
        closes, name, attributes, alone = tag.groups()
        if depth:
            if name == inside and not alone:
                depth += -1 if closes else 1
                position = tag.end()
        elif not closes and is_gone(name):
            kept.append(xmp[position : tag.start()])
            position, inside, depth = tag.end(), name, 0 if alone else 1
        elif not closes:
            shorter = _ATTRIBUTE.sub(lambda found: b"" if is_gone(found[1]) else found[0], attributes)
            if shorter != attributes:
                kept += [xmp[position : tag.start(3)], shorter]
                position = tag.end(3)
    if depth:
        raise ContainerError("an element of the XMP does not end")
    return b"".join([*kept, xmp[position:]])
