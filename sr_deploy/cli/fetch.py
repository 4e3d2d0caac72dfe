"""`sr-deploy fetch`: a published network -> its bundle, in the user's data folder."""

from __future__ import annotations

import sys
from contextlib import closing
from typing import Any

import click
from click.shell_completion import CompletionItem

from sr_deploy.cli import Command, json_option, verbose_option
from sr_deploy.cli.output import print_json, say_on_stderr, warnings_told
from sr_deploy.settings import shipped


class RecipeReference(click.ParamType[str]):
    """A recipe that comes with sr-deploy, or a TOML file."""

    name = "recipe"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """The names that begin so, and files."""
        del ctx, param
        known = [CompletionItem(name) for name in shipped("export") if name.startswith(incomplete)]
        return [*known, CompletionItem(incomplete, type="file")]


class ByteBar:
    """A bar on a terminal while a file comes; nothing elsewhere."""

    def __init__(self) -> None:
        self._bar: Any = None

    def __call__(self, done: int, total: int) -> None:
        if self._bar is None:
            from tqdm import tqdm

            from sr_deploy.cli.progress_bar import terminal_width

            self._bar = tqdm(
                total=total, unit="B", unit_scale=True, file=sys.stderr, leave=False, disable=None, **terminal_width()
            )
        self._bar.update(done - self._bar.n)
        if done == total:
            self.close()

    def close(self) -> None:
        """Take it away."""
        if self._bar is not None:
            self._bar.close()


@click.command(
    "fetch",
    cls=Command,
    short_help="Get a published network, for the -m of other commands.",
    examples=(
        "sr-deploy fetch rlfn_ntire_x4",
        "sr-deploy fetch pan_x4 --yes",
    ),
)
@click.argument("name", type=RecipeReference())
@click.option("--yes", is_flag=True, help="Agree to a license that does not allow every use.")
@json_option
@verbose_option
def command(name: str, yes: bool, as_json: bool) -> None:
    """Download the network that the recipe NAME is of, and export it, into your data folder.

    `sr-deploy models` lists the names. Prints the bundle's folder on stdout; -m NAME finds it from then on.
    """
    from sr_deploy.fetch import fetch

    with warnings_told(say_on_stderr), closing(ByteBar()) as bar:
        found = fetch(name, agreed=yes, say=say_on_stderr, progress=bar)
    recipe = found.recipe
    if as_json:
        facts = {"license": recipe.license, "url": recipe.url, "sha256": recipe.sha256, "new": found.new}
        print_json({"network": recipe.name, "bundle": found.bundle, "checkpoint": found.checkpoint, **facts})
    else:
        click.echo(found.bundle)
