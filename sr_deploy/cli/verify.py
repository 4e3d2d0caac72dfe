"""`sr-deploy verify`: repeat a bundle's certificate on this machine, from its own probe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from sr_deploy.bundle import Bundle
from sr_deploy.card import Link
from sr_deploy.cli import Command, json_option, verbose, verbose_option
from sr_deploy.cli.output import print_json, print_table
from sr_deploy.models import resolve

EQUAL = 999.0
"""The PSNR that a card gives to equal outputs."""


@click.command(
    "verify",
    cls=Command,
    short_help="Check a bundle on this machine.",
    examples=(
        "sr-deploy verify models/rlfn",
        "sr-deploy verify fast --backend onnxruntime -v",
    ),
)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--backend", help="Only this inference runtime.  [default: all that load here]")
@json_option
@verbose_option
@click.pass_context
def command(ctx: click.Context, bundle: Path, backend: str | None, as_json: bool) -> None:
    """Check on this machine that BUNDLE computes what its checkpoint computed.

    Runs the bundle's own probe through the inference runtimes, without torch. Shows the worst probe of
    each step, with -v every one. Exit code 1 when a floor is missed.
    """
    from sr_deploy.engines.parity import verify

    opened = Bundle.open(resolve(bundle))
    links = verify(opened, backend=backend)
    passed = all(link.passed for link in links)
    if as_json:
        print_json({"network": opened.card.name, "bundle": bundle, "passed": passed, "links": links})
    else:
        print_links(links, every=verbose(ctx))
    if not passed:
        missed = [f"{link.source} -> {link.target} on {link.probe}" for link in links if not link.passed]
        click.echo(f"error: {bundle}: misses its floor in {'; '.join(missed)}; do not use it on this machine", err=True)
    ctx.exit(0 if passed else 1)


def print_links(links: Sequence[Link], *, every: bool = False) -> None:
    """Print a parity chain as a table, differences in 8-bit steps; per step the worst probe, or `every` one."""
    steps: dict[tuple[str, str], list[Link]] = {}
    for link in links:
        steps.setdefault((link.source, link.target), []).append(link)
    shown = list(links) if every else [max(step, key=lambda link: (not link.passed, -link.psnr)) for step in steps.values()]
    masked = any(link.selected for link in links)
    rows = [
        (
            link.source,
            link.target,
            link.probe,
            round(link.max_lsb, 4),
            round(link.mean_lsb, 5),
            round(link.border_max_lsb, 4),
            f"{link.psnr:.1f}" if link.psnr < EQUAL else "equal",
            link.floor or "-",
            "ok" if link.passed else "FAILED",
            *((f"{link.moved} of {link.selected}" if link.selected else "-",) if masked else ()),
        )
        for link in shown
    ]
    header = ("from", "to", "probe" if every else "worst probe", "max LSB", "mean LSB", "border", "PSNR dB", "floor", "")
    print_table(rows, (*header, "other patches") if masked else header)
