"""report.html: the certificate, drawn. One file without scripts or outside references."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path

import numpy as np
import onnx

from sr_deploy.arrays import Array
from sr_deploy.bicubic import imresize
from sr_deploy.bundle import REPORT_FILE, Bundle
from sr_deploy.card import Hypothesis, Link, ModelCard, Part, Precision
from sr_deploy.export.activations import Activations
from sr_deploy.export.certify import ImageFunction
from sr_deploy.export.charts import Layer, activation_chart, linear_bar, log_bar
from sr_deploy.export.hypothesis import describe
from sr_deploy.export.int8 import Int8Graph
from sr_deploy.export.kept import LARGEST_ALLOWED
from sr_deploy.export.precision import HalfPrecision
from sr_deploy.export.probes import as_input, degrade, probe_picture
from sr_deploy.metrics import luma, psnr_y
from sr_deploy.pages import BASE_STYLE, asset, data_url, document
from sr_deploy.probe_picture import gain

_AMPLIFIED = 64


def write_report(
    folder: Path,
    bundle: Bundle,
    original: ImageFunction,
    halved: ImageFunction,
    halves: Mapping[Part, HalfPrecision],
    activations: Mapping[Part, Activations],
    int8: Mapping[Precision, Int8Graph],
) -> None:
    """Write report.html into `folder`, whose graphs lie there already.

    `halved` is the network in fp16; of a mask-guided one, it and `original` refine every patch.
    """
    card = bundle.card
    sections = [
        _header(bundle),
        _chain(bundle.certificate),
        *([_selection(bundle.certificate)] if card.masked else []),
        _pictures(card, original, halved),
        _readings(card),
        *(_activations(bundle, part, halves[part], activations[part]) for part in card.parts),
        *(_int8(precision, graph) for precision, graph in int8.items()),
        _footer(bundle),
    ]
    own = resources.files("sr_deploy.export").joinpath("report.css").read_text(encoding="utf-8")
    body = "<main>\n" + "\n".join(sections) + "\n</main>"
    page = document(f"{card.name}: certificate", body, style=asset(BASE_STYLE) + own)
    (folder / REPORT_FILE).write_text(page, encoding="utf-8")


def _header(bundle: Bundle) -> str:
    card = bundle.card
    failed = [link for link in bundle.certificate if not link.passed]
    verdict = '<span class="pill pass">certified</span>'
    if failed:
        verdict += f' <span class="pill fail">not in {escape(", ".join(sorted({link.target for link in failed})))}</span>'
    facts = {
        "network": card.architecture,
        "scale": f"×{card.scale}",
        "images": "RGB" if card.channels == 3 else "Y (BT.601, limited range)",
        "value range": f"0…{card.value_range:g}",
        "parameters": f"{card.parameters / 1e3:,.1f} K",
        "MACs per LR pixel": f"{card.macs / 1e3:,.1f} K",
        "activations per LR pixel": f"{card.activation_bytes / 1024:,.1f} KiB fp32",
        "tiling": f"exact, halo {card.halo}" if card.tiling == "exact" else "approximate",
        "smallest input": f"{card.min_size}×{card.min_size}"
        + (f", multiples of {card.size_multiple}" * (card.size_multiple > 1)),
    }
    if card.masked:
        facts |= {
            "patches": f"{card.masked.patch}×{card.masked.patch}, with a border of {card.masked.padding}",
            "MACs to refine, per LR pixel": f"{card.masked.macs / 1e3:,.1f} K",
        }
    if card.source:
        facts |= {"checkpoint": card.source.file, "sha256": card.source.sha256[:16] + "…", "license": card.source.license}
        for test_set, psnr in card.source.expected.items():
            facts[f"published PSNR-Y, {test_set}"] = f"{psnr:.3f} dB"
    cells = "".join(f"<div><dt>{escape(key)}</dt><dd>{escape(value)}</dd></div>" for key, value in facts.items())
    folds = ", ".join(escape(fold) for fold in card.reparameterized) or "nothing to fold"
    return (
        f"<header><h1>{escape(card.name)} {verdict}</h1>"
        f'<p class="lead">{escape(card.architecture)} ×{card.scale}, compared with its checkpoint at every step.</p></header>'
        f'<dl class="facts">{cells}</dl><p class="note"><b>Reparameterized:</b> {folds}.</p>'
    )


def _chain(links: Sequence[Link]) -> str:
    targets = list(dict.fromkeys(link.target for link in links))
    rows = "".join(_chain_row(target, [link for link in links if link.target == target]) for target in targets)
    every = "".join(
        f"<tr><td>{escape(link.target)}</td><td>{escape(link.probe)}</td><td>{link.max_lsb:.4f}</td><td>{link.mean_lsb:.4f}</td>"
        f"<td>{link.border_max_lsb:.4f}</td><td>{_decibel(link.psnr)}</td></tr>"
        for link in links
    )
    return (
        "<h2>The chain</h2><p>Each step against the original network, worst of all probes, in 8-bit steps (LSB). "
        "The tick is what the step had to reach.</p>"
        '<table><thead><tr><th>step</th><th class="wide">largest difference, 0.0001 to 256 LSB</th>'
        "<th>max LSB</th><th>mean LSB</th>"
        f"<th>border max</th><th>PSNR</th><th>floor</th><th></th></tr></thead><tbody>{rows}</tbody></table>"
        "<details><summary>Every probe</summary><table><thead><tr><th>step</th><th>probe</th><th>max LSB</th><th>mean LSB</th>"
        f"<th>border max</th><th>PSNR</th></tr></thead><tbody>{every}</tbody></table></details>"
    )


def _chain_row(target: str, links: Sequence[Link]) -> str:
    worst, passed = max(link.max_lsb for link in links), all(link.passed for link in links)
    limit = 0.5 if links[0].floor.startswith("max") else None
    mark = '<span class="pill pass">pass</span>' if passed else '<span class="pill fail">fail</span>'
    return (
        f"<tr><td>{escape(target)}</td><td>{log_bar(worst, low=1e-4, high=256, limit=limit, good=passed)}</td>"
        f"<td>{worst:.4f}</td><td>{max(link.mean_lsb for link in links):.4f}</td>"
        f"<td>{max(link.border_max_lsb for link in links):.4f}</td>"
        f"<td>{_decibel(min(link.psnr for link in links))}</td><td>{escape(links[0].floor)}</td><td>{mark}</td></tr>"
    )


def _selection(links: Sequence[Link]) -> str:
    images = [link for link in links if link.selected]
    rows = "".join(
        f"<tr><td>{escape(link.target)}</td><td>{escape(link.probe)}</td><td>{link.moved} of {link.selected}</td></tr>"
        for link in images
    )
    total, moved = sum(link.selected for link in images), sum(link.moved for link in images)
    return (
        "<h2>The choice of patches</h2><p>Above, every image has the patches refined that the original network chose. "
        f"By the scores of the step itself, {moved} of {total} would have been others. Features and scores are measured in "
        "steps of 1/255 of twice the original's largest absolute value.</p>"
        "<details><summary>Every step</summary><table><thead><tr><th>step</th><th>probe</th><th>other patches</th></tr></thead>"
        f"<tbody>{rows}</tbody></table></details>"
    )


def _pictures(card: ModelCard, original: ImageFunction, halved: ImageFunction) -> str:
    hr, lr = degrade(probe_picture(), card.scale, size_multiple=card.size_multiple)
    feed = as_input(lr, card.channels)
    full = np.clip(original(feed)[0], 0, 1)
    small = halved(feed)[0]
    bicubic = imresize(lr, *hr.shape[:2])
    output = _to_pixels(full)
    difference = np.clip(np.abs(full - np.clip(small, 0, 1)) * 255 * _AMPLIFIED, 0, 255).astype(np.uint8).transpose(1, 2, 0)
    truth = hr if card.channels == 3 else np.round(luma(hr)).astype(np.uint8)
    pictures = [
        (lr if card.channels == 3 else np.round(luma(lr)).astype(np.uint8), f"LR {lr.shape[1]}×{lr.shape[0]}"),
        (bicubic, f"bicubic, {psnr_y(hr, bicubic, border=card.scale):.2f} dB"),
        (output, f"original network, {psnr_y(hr, output, border=card.scale):.2f} dB"),
        (truth, "HR, the truth"),
        (difference[..., 0] if card.channels == 1 else difference, f"|fp16 - original| ×{_AMPLIFIED}"),
    ]
    figures = "".join(
        f'<figure><img alt="{escape(text)}" src="{_png_url(image)}"><figcaption>{escape(text)}</figcaption></figure>'
        for image, text in pictures
    )
    return (
        "<h2>The picture</h2><p>The project's own test picture, shrunk by bicubic with antialiasing. "
        f'PSNR is of Y, without a border of {card.scale} pixels.</p><div class="pictures">{figures}</div>'
    )


def _readings(card: ModelCard) -> str:
    detection = card.detection
    if detection is None:
        return ""
    best = max(detection.hypotheses, key=gain, default=None)
    high = max((abs(gain(item)) for item in detection.hypotheses), default=1.0)
    rows = "".join(_reading_row(item, high, item is best) for item in detection.hypotheses)
    how = {
        "structure": "The weights allow only one function.",
        "checkpoint": "The checkpoint says so itself.",
        "measurement": f"Decided by measurement, with a lead of {detection.margin or 0:.2f} dB over the next reading.",
        "recipe": "Decided by the recipe.",
        "flag": "Decided by the caller.",
    }[detection.decided_by]
    warning = ""
    if best is not None and gain(best) <= 0:
        warning = '<p class="warn">No reading beats bicubic: broken weights, or trained for another degradation.</p>'
    return (
        f"<h2>What the weights do not tell</h2><p>{how} Gain over bicubic at the same scale:</p>"
        '<table><thead><tr><th>reading</th><th class="wide">gain</th><th>gain</th><th>PSNR-Y</th><th>bicubic</th></tr></thead>'
        f"<tbody>{rows}</tbody></table>{warning}"
    )


def _reading_row(item: Hypothesis, high: float, best: bool) -> str:
    mark = ' class="best"' if best else ""
    found = f"{item.psnr:.2f} dB" if item.psnr else "NaN or Inf"
    return (
        f"<tr{mark}><td>{escape(describe(item.assumes))}</td>"
        f"<td>{linear_bar(gain(item), high=high, good=best)}</td><td>{gain(item):+.2f} dB</td><td>{found}</td>"
        f"<td>{item.bicubic or 0:.2f} dB</td></tr>"
    )


def _activations(bundle: Bundle, part: Part, half: HalfPrecision, activations: Activations) -> str:
    graph = onnx.load(bundle.graph("fp32", part)).graph
    maker = {output: node.name for node in graph.node for output in node.output}
    layers = [
        Layer(name, calm, activations.noise[name], maker.get(name, "") in half.kept) for name, calm in activations.calm.items()
    ]
    largest = max(layers, key=lambda layer: layer.calm)
    noisiest = max(layers, key=lambda layer: layer.noise)
    runaway = ""
    if activations.diverging:
        named = ", ".join(f"{escape(name)} (output up to {value:.3g})" for name, value in activations.diverging.items())
        runaway = (
            f'<p class="note">In fp32 already, this network runs away on synthetic patterns: {named}. '
            "No precision helps there, so they do not count.</p>"
        )
    return (
        f"<h2>Activations and fp16{f': {part}' if part else ''}</h2>"
        "<p>Largest absolute value of every tensor, from input to output; the thin marks are "
        f"white noise. Largest: <b>{largest.calm:.4g}</b> in <code>{escape(largest.name)}</code>; on white noise "
        f"{noisiest.noise:.4g} in <code>{escape(noisiest.name)}</code>. Above {LARGEST_ALLOWED:g}, nodes stay in fp32.</p>"
        f'<div class="scroll">{activation_chart(layers)}</div>'
        '<p class="legend"><span class="good"></span>fp16 <span class="kept"></span>kept in fp32 <span class="noise"></span>'
        f"white noise</p>{runaway}{_kept(half)}"
    )


def _kept(half: HalfPrecision) -> str:
    if not half.kept:
        return "<p><b>Kept in fp32:</b> nothing.</p>"
    rows = "".join(f"<tr><td><code>{escape(name)}</code></td><td>{escape(why)}</td></tr>" for name, why in half.kept.items())
    return (
        f"<details><summary>{len(half.kept)} nodes kept in fp32</summary>"
        f"<table><thead><tr><th>node</th><th>why</th></tr></thead><tbody>{rows}</tbody></table></details>"
    )


def _int8(precision: Precision, graph: Int8Graph) -> str:
    most = max([*graph.errors.values(), 1.0])
    rows = "".join(
        f"<tr><td><code>{escape(name)}</code></td>"
        f"<td>{log_bar(max(error, 1e-4), low=1e-4, high=10 * most, good=name in graph.chosen)}</td><td>{error:.4g}</td>"
        f"<td>{'8 bits' if name in graph.chosen else 'fp32'}</td></tr>"
        for name, error in graph.errors.items()
    )
    return (
        f"<h2>{precision}</h2><p>{len(graph.chosen)} of {len(graph.errors)} convs are computed in 8 bits"
        f"{', fine-tuned' * graph.tuned}. Together, Y is "
        f"{graph.psnr:.1f} dB from fp32, which costs {graph.loss:.3f} dB on photographs; {graph.allowed:g} dB were allowed. "
        f"By the model of times the graph is {graph.factor:.2f} times as fast as fp32. Chosen are those that save the most "
        "time for their error; here is what each one errs by alone, as the mean square of Y in 8-bit steps.</p>"
        '<table><thead><tr><th>conv</th><th class="wide">error, 0.0001 upwards</th><th>error</th><th></th></tr></thead>'
        f"<tbody>{rows}</tbody></table>"
    )


def _footer(bundle: Bundle) -> str:
    versions = ", ".join(f"{escape(name)} {escape(version)}" for name, version in bundle.made_with.items())
    graphs = "".join(
        f"<tr><td>{escape(graph.file)}</td><td>opset {graph.opset}</td><td><code>{graph.sha256}</code></td></tr>"
        for graph in bundle.graphs.values()
    )
    return f"<h2>Files</h2><table><tbody>{graphs}</tbody></table><footer>Made with {versions}.</footer>"


def _decibel(psnr: float) -> str:
    return "equal" if psnr >= 999 else f"{psnr:.1f} dB"


def _to_pixels(image: Array) -> Array:
    pixels = np.round(image * 255).astype(np.uint8)
    return pixels[0] if pixels.shape[0] == 1 else pixels.transpose(1, 2, 0)


def _png_url(image: Array) -> str:
    import cv2

    stored = image if image.ndim == 2 else np.ascontiguousarray(image[..., ::-1])
    _, data = cv2.imencode(".png", stored, [cv2.IMWRITE_PNG_COMPRESSION, 9])
    return data_url(data.tobytes())
