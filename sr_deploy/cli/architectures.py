"""`sr-deploy architectures`: the networks that `export` recognizes."""

from __future__ import annotations

import dataclasses

import click

from sr_deploy.cli import Command, json_option, verbose_option
from sr_deploy.cli.output import print_json, print_table


@click.command(
    "architectures",
    cls=Command,
    short_help="List the networks that `export` recognizes.",
    examples=(
        "sr-deploy architectures",
        "sr-deploy architectures --json",
    ),
)
@json_option
@verbose_option
def command(as_json: bool) -> None:
    """List the networks that `export` recognizes from their weights alone."""
    from sr_deploy.architectures import REGISTRY

    if as_json:
        entries = [
            {
                "architecture": entry.name,
                "title": entry.title,
                "paper": entry.paper,
                "value_range": entry.value_range,
                "recognized_by": {"all": entry.signature.has_all, "any": entry.signature.has_any},
                "default": dataclasses.asdict(entry.default),
            }
            for entry in REGISTRY
        ]
        print_json({"architectures": entries})
        return
    rows = [
        (entry.name, entry.title, ", ".join((entry.signature.has_all or entry.signature.has_any)[:2]), entry.paper)
        for entry in REGISTRY
    ]
    print_table(rows, ("name", "network", "recognized by", "paper"))
