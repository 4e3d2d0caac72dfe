"""The bundle: a folder that carries everything between a checkpoint and its pixels, as facts and graphs, no code.

NAME/
  card.json     ModelCard, one GraphCard per graph, the certificate
  fp32.onnx     (N,C,H,W) in [0,1] -> (N,C,sH,sW) in [0,1]
  fp16.onnx     the same in half precision
  int8.onnx     where asked for: fp32 outside, and convs of 8 bits inside; int8-symmetric.onnx is for GPUs
  probe.npz     small inputs with the original module's outputs
  report.html   the certificate, drawn

A mask-guided network comes in two parts, each in both precisions, in place of fp32.onnx and fp16.onnx:

  base-fp32.onnx, base-fp16.onnx
                input (N,C,H,W) in [0,1], H and W multiples of the patch
                -> coarse (N,C,sH,sW) in [0,1], features (N,F,H,W), scores (N,1,H/patch,W/patch)
  refine-fp32.onnx, refine-fp16.onnx
                patches (K,F,side,side), side = patch + 2 * padding -> pixels (K,C,s*patch,s*patch) in [0,1]
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from sr_deploy.card import Arithmetic, CardFile, GraphCard, Link, ModelCard, Part, Precision
from sr_deploy.errors import BundleError

CARD_FILE = "card.json"
PROBE_FILE = "probe.npz"
REPORT_FILE = "report.html"


@dataclass(frozen=True)
class Bundle:
    """An opened bundle, as `open_bundle` gives it.

    folder: where the graphs lie.
    card: what the network is.
    graphs: by name, such as 'fp32'.
    certificate: the parity chain, as it was measured at the export.
    made_with: versions of what exported it, by name.
    """

    folder: Path
    card: ModelCard
    graphs: dict[str, GraphCard]
    certificate: tuple[Link, ...] = ()
    made_with: dict[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        card = self.card
        colors = "RGB" if card.channels == 3 else "luma"
        return f"<Bundle {card.name}: {card.architecture} x{card.scale}, {colors}, {' '.join(self.graphs)}, in {self.folder}>"

    @staticmethod
    def open(folder: Path, *, check: bool = True) -> Bundle:
        """Read a bundle folder.

        folder: as `sr-deploy export` made it.
        check: whether every graph's sha256 is compared with the card.

        Raises: BundleError when something is missing, unreadable, or was changed since the export.
        """
        path = folder / CARD_FILE
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError as exc:
            what = "no such folder" if not folder.exists() else f"it has no {CARD_FILE}"
            raise BundleError(f"{folder}: not a bundle, {what}; make one with `sr-deploy export CHECKPOINT`") from exc
        except (OSError, ValueError) as exc:
            raise BundleError(f"{path}: not readable as a card ({exc}); export the bundle again") from exc
        contents = CardFile.parse(text, where=str(path))
        bundle = Bundle(folder, contents.model, contents.graphs, contents.certificate, contents.made_with)
        if check:
            bundle.check()
        return bundle

    def check(self) -> None:
        """Compare every graph with the card.

        Raises: BundleError naming the first graph that is missing or differs.
        """
        for name, graph in self.graphs.items():
            path = self.folder / graph.file
            if not path.is_file():
                raise BundleError(f"{self.folder}: {graph.file} ({name}) is missing; export the bundle again")
            found = sha256_of(path)
            if found != graph.sha256:
                raise BundleError(
                    f"{path}: changed since it was certified (sha256 {found[:12]}, the card says {graph.sha256[:12]}); "
                    "export the bundle again"
                )

    def write_card(self) -> None:
        """Write card.json into `folder`."""
        contents = CardFile(self.card, self.graphs, self.certificate, self.made_with)
        (self.folder / CARD_FILE).write_text(contents.to_text(), encoding="utf-8")

    def runs(self, arithmetic: Arithmetic) -> bool:
        """Whether the bundle has the graphs for an arithmetic.

        arithmetic: 'fp32', 'bf16', 'fp16', 'int8' or 'int8-symmetric'; bf16 runs the fp32 graph.
        """
        return all(graph_key(stored_as(arithmetic), part) in self.graphs for part in self.card.parts)

    def graph(self, arithmetic: Arithmetic, part: Part = "") -> Path:
        """Path of the graph for an arithmetic.

        arithmetic: 'fp32', 'bf16', 'fp16', 'int8' or 'int8-symmetric'; bf16 runs the fp32 graph.
        part: 'base' or 'refine' of a mask-guided network, '' of another one.

        Raises: BundleError when the bundle has none.
        """
        key = graph_key(stored_as(arithmetic), part)
        if part not in self.card.parts:
            raise BundleError(f"{self.folder}: {_PARTS_EXPECTED[self.card.masked is not None]}")
        if key not in self.graphs:
            raise BundleError(f"{self.folder}: has no {key} graph, only {', '.join(self.graphs)}")
        return self.folder / self.graphs[key].file


def graph_key(precision: Precision, part: Part = "") -> str:
    """The name of a graph in its bundle, and the stem of its file."""
    return f"{part}-{precision}" if part else precision


_PARTS_EXPECTED = {
    True: "a mask-guided network, in two graphs, base and refine; open it with MaskedUpscaler or `sr-deploy upscale`",
    False: "a network in one graph, without base and refine; open it with Upscaler or `sr-deploy upscale`",
}


def stored_as(arithmetic: Arithmetic) -> Precision:
    """What the graph that an arithmetic runs is stored in."""
    return "fp32" if arithmetic == "bf16" else arithmetic


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
