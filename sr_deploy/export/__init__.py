"""Checkpoint -> bundle: choose the function, reparameterize, trace, halve, certify."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sr_deploy.architectures import load_checkpoint
from sr_deploy.arrays import Array
from sr_deploy.bundle import Bundle, sha256_of
from sr_deploy.card import Link, ModelCard, Precision, Source
from sr_deploy.errors import UnknownArchitectureError, UsageError
from sr_deploy.export import foreign, program, spandrel
from sr_deploy.export.certify import (
    ImageFunction,
    as_function,
    certify,
    certify_int8,
    run_graph,
    run_original,
    write_probes,
)
from sr_deploy.export.graphs import Graphs, graphs_of, labeled, write_graphs
from sr_deploy.export.int8 import LEAST_FACTOR, SYMMETRIC, Int8Graph, quantize, speed_model
from sr_deploy.export.masked import (
    certify_masked,
    run_all_refined,
    run_masked_original,
    write_masked_probes,
)
from sr_deploy.export.probes import parity_probes
from sr_deploy.export.report import write_report
from sr_deploy.export.staging import check_target, staged
from sr_deploy.export.subject import Request, Subject, subject_of
from sr_deploy.models.recipe import Recipe, check_recipe, read_recipe, recipe_of

__all__ = ["Recipe", "export_bundle", "read_recipe"]


def export_bundle(
    checkpoint: str | Path,
    output: str | Path | None = None,
    *,
    name: str | None = None,
    recipe: str | Path | None = None,
    value_range: float | None = None,
    variant: Mapping[str, Any] | None = None,
    architecture: str | None = None,
    dense_bsconv: bool = False,
    merge_parallel: bool = False,
    anyway: bool = False,
    trust: bool = False,
    overwrite: bool = False,
    int8: float | None = None,
    calibration: Sequence[Array] | None = None,
    tune: float = 0.0,
    progress: Callable[[str], None] | None = None,
) -> Bundle:
    """Write the bundle of a checkpoint into a folder and open it.

    Warns (UserWarning) when the network is worse than bicubic on the test picture.

    checkpoint: weights of a known network, or of one that spandrel knows where that is installed; a torch.export program
        (.pt2); or an image-to-image graph (.onnx).
    output: the folder; None is the bundle's name, in the current folder.
    name: of the bundle; None is the recipe's, or the checkpoint's without its suffix.
    recipe: a TOML file that settles what the weights leave open, or the name of one that comes with sr-deploy; without it a
        published checkpoint is known by its sha256, and its recipe applies under what is given here; else that is measured.
    value_range: 1 or 255, what the network was trained with.
    variant: settles what else the weights leave open, by name.
    architecture: whose weights they are; None finds it out.
    dense_bsconv: make every BSConv one dense 3x3, an exact fold.
    merge_parallel: make one 5x5 of MSRN's parallel 3x3 and 5x5, an exact fold.
    anyway: export a network even if it is far worse than bicubic.
    trust: load a torch.export program, which can run code that is in it.
    overwrite: replace a bundle that is there.
    int8: write INT8 graphs too, for CPUs and for GPUs, that lose at most so many dB of Y on photographs, such as 0.05. Warns
        where nothing that is worth it keeps to that.
    calibration: pictures like those that INT8 will meet, (H, W, 3) uint8 RGB, as the network gets them; None takes drawn ones.
    tune: minutes for fine-tuning INT8 against the fp32 network; what does not become better by it stays as it was.
    progress: called with a line about each step.

    Raises: UsageError, CheckpointError, UnknownArchitectureError, AmbiguousCheckpointError, ExportError, CertificationError,
    MissingDependencyError. Whatever is raised, nothing is left on disk.
    """
    checkpoint, say = Path(checkpoint), progress or (lambda _: None)
    chosen = _recipe(checkpoint, recipe)
    name = name or (chosen.name if chosen and recipe else checkpoint.stem)
    target = Path(name if output is None else output)
    check_target(target, overwrite=overwrite)
    if chosen and recipe is None:
        say(f"{checkpoint.name} is published: recipe '{chosen.name}' applies, license {chosen.license}")
    settings = {"value_range": chosen.value_range, **chosen.variant} if chosen else {}
    flags = ({} if value_range is None else {"value_range": float(value_range)}) | dict(variant or {})
    request = Request({**settings, **flags}, bool(flags), dense_bsconv, merge_parallel, anyway, trust)
    say(f"reading {checkpoint.name}")
    subject = _subject(checkpoint, request, architecture or (chosen.architecture if chosen else None), say)
    if subject.masked and int8 is not None:
        raise UsageError(f"{checkpoint.name}: a mask-guided network has no INT8 form; export it without --int8")
    source = _source(checkpoint, chosen)
    graphs = graphs_of(subject, name, source, say)
    say("certifying")
    certified = (_certified_masked if subject.masked else _certified)(subject, graphs)
    if int8 is not None:
        found = _quantized(graphs, int8, calibration, tune, say)
        graphs, certified = found.graphs, replace(certified, links=(*certified.links, *found.links))
    with staged(target, overwrite=overwrite) as folder:
        bundle = write_graphs(folder, graphs, certified.links)
        certified.write_probes(folder)
        say("drawing the report")
        _draw(folder, bundle, subject, graphs, certified.halved)
    return Bundle.open(target)


def _draw(folder: Path, bundle: Bundle, subject: Subject, graphs: Graphs, halved: ImageFunction) -> None:
    halves = {part: network.half for part, network in graphs.networks.items()}
    activations = {part: network.activations for part, network in graphs.networks.items()}
    int8 = graphs.networks[""].int8 if "" in graphs.networks else {}
    write_report(folder, bundle, subject.original, halved, halves, activations, int8)


def _recipe(checkpoint: Path, given: str | Path | None) -> Recipe | None:
    """The recipe that is given, else the one of a published checkpoint."""
    if given is not None:
        recipe = read_recipe(given)
        check_recipe(recipe, checkpoint)
        return recipe
    return recipe_of(checkpoint)


def _subject(checkpoint: Path, request: Request, architecture: str | None, say: Callable[[str], None]) -> Subject:
    where = checkpoint.name
    if checkpoint.suffix.lower() == ".onnx":
        return foreign.from_onnx(checkpoint, request)
    if checkpoint.suffix.lower() == ".pt2":
        return program.from_program(checkpoint, request)
    try:
        loaded = load_checkpoint(checkpoint, architecture=architecture)
    except UnknownArchitectureError as exc:
        if architecture is not None:
            raise
        return spandrel.from_spandrel(checkpoint, request, unknown=exc)
    if left := loaded.checkpoint.left:
        taken, others = loaded.checkpoint.wrapper, ", ".join(f"'{name}'" for name in left)
        say(f"{where}: takes the weights under '{taken}', not those under {others}")
    return subject_of(loaded, request, where=where)


def _source(checkpoint: Path, recipe: Recipe | None) -> Source:
    digest = sha256_of(checkpoint)
    if recipe is None:
        return Source(checkpoint.name, digest)
    return Source(
        checkpoint.name,
        digest,
        recipe.license,
        recipe.url,
        recipe.name,
        recipe.expected,
        recipe.purpose,
        recipe.credits,
    )


@dataclass(frozen=True)
class _Certified:
    """The chain, how its probes are written, and the network in fp16 as a function."""

    links: tuple[Link, ...]
    write_probes: Callable[[Path], None]
    halved: ImageFunction


def _certified(subject: Subject, graphs: Graphs) -> _Certified:
    network = graphs.networks[""]
    half = network.half.model
    probes = _parity_probes(graphs.card)
    outputs = run_original(subject.original, probes)
    links = certify(
        probes,
        outputs,
        scale=subject.scale,
        reparameterized=None if subject.module is None else as_function(subject.module),
        fp32=network.fp32,
        fp16=half,
    )
    return _Certified(
        links,
        lambda folder: write_probes(folder, probes, outputs),
        lambda image: run_graph(half, {"picture": image}, arithmetic="fp16")["picture"],
    )


@dataclass(frozen=True)
class _Quantized:
    graphs: Graphs
    links: tuple[Link, ...]


def _quantized(
    graphs: Graphs, loss: float, calibration: Sequence[Array] | None, minutes: float, say: Callable[[str], None]
) -> _Quantized:
    """The graphs with those in 8 bits, and their links. minutes: for fine-tuning all of them."""
    network, card = graphs.networks[""], graphs.card
    made: dict[Precision, Int8Graph] = {}
    links: list[Link] = []
    speed = speed_model()
    for precision, symmetric in SYMMETRIC.items():
        say(f"choosing convs for {precision}")
        found = quantize(
            network.fp32,
            card,
            loss=loss,
            calibration=calibration,
            symmetric=symmetric,
            speed=speed,
            seconds=60 * minutes / len(SYMMETRIC),
        )
        if minutes:
            say(f"fine-tuning of {precision} {'has more convs in 8 bits' if found.tuned else 'gained nothing'}")
        if found.model is None:
            warnings.warn(
                f"{card.name}: no {precision} graph that loses at most {loss:g} dB is {LEAST_FACTOR} times as fast as fp32 "
                f"(the best one {found.factor:.2f} times); none was written",
                stacklevel=3,
            )
            continue
        links += certify_int8(card, network.fp32, found.model, precision=precision, loss=loss)
        made[precision] = replace(found, model=labeled(found.model, card))
    return _Quantized(replace(graphs, networks={"": replace(network, int8=made)}), tuple(links))


def _certified_masked(subject: Subject, graphs: Graphs) -> _Certified:
    assert subject.masked is not None
    assert graphs.card.masked is not None
    base, refine = graphs.networks["base"], graphs.networks["refine"]
    probes = run_masked_original(subject.masked.original, _parity_probes(graphs.card))
    links = certify_masked(
        probes,
        masked=graphs.card.masked,
        scale=subject.scale,
        reparameterized=subject.masked.reparameterized,
        graphs={"fp32": (base.fp32, refine.fp32), "fp16": (base.half.model, refine.half.model)},
    )
    return _Certified(
        links,
        lambda folder: write_masked_probes(folder, probes),
        lambda image: run_all_refined(base.half.model, refine.half.model, image),
    )


def _parity_probes(card: ModelCard) -> dict[str, Array]:
    return parity_probes(card.channels, min_size=card.min_size, size_multiple=card.size_multiple)
