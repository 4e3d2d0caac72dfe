"""The command group: finds commands by name, and is the one place where errors become messages and exit codes."""

from __future__ import annotations

import errno
import importlib
import traceback
from collections.abc import Sequence
from itertools import takewhile
from typing import Any, NoReturn

import click

from sr_deploy.cli.output import print_json_error
from sr_deploy.errors import CancelledError, MissingDependencyError, SrDeployError, UsageError, did_you_mean

INTERNAL_ERROR = 1
MEANT_FOR_EXPORT = ("torch", "safetensors", "onnxscript")

_AS_JSON = "sr_deploy.json"


class Group(click.Group):
    """Commands are imported when they are asked for: the module of that name in this package, its attribute `command`."""

    def __init__(self, *args: Any, modules: Sequence[str] = (), **options: Any) -> None:
        super().__init__(*args, **options)
        self._modules = tuple(modules)

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(self._modules)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in self._modules:
            return None
        command = importlib.import_module(f"sr_deploy.cli.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in self._modules and not name.startswith("-") and not ctx.resilient_parsing:
            ctx.fail(f"No such command '{name}'{did_you_mean(name, self._modules)}")
        return super().resolve_command(ctx, args)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Remember --json, also for a command line that turns out to be wrong."""
        ctx.meta[_AS_JSON] = "--json" in takewhile(lambda arg: arg != "--", args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SrDeployError as exc:
            _fail(ctx, type(exc).__name__, str(exc), exc.exit_code)
        except KeyboardInterrupt as exc:
            kept = "".join(f"; {note}" for note in getattr(exc, "__notes__", ()) if "frames are kept" in note)
            message = f"interrupted{kept}; everything finished so far is whole, run the same command again to go on"
            _fail(ctx, CancelledError.__name__, message, CancelledError.exit_code)
        except ModuleNotFoundError as exc:
            _fail(ctx, MissingDependencyError.__name__, _how_to_install(exc), MissingDependencyError.exit_code)
        except click.ClickException as exc:
            kind = UsageError if exc.exit_code == UsageError.exit_code else type(exc)
            _tell_program(ctx, kind.__name__, exc.format_message(), exc.exit_code)
            raise
        except (click.exceptions.Exit, click.Abort):
            raise
        except Exception as exc:
            if isinstance(exc, OSError) and exc.errno == errno.EPIPE:
                raise  # whoever read our output left: click ends quietly
            reason = (str(exc).splitlines() or [""])[0]
            hint = "" if verbose(ctx) else "; run again with -v for the whole story, and please report it"
            _fail(ctx, type(exc).__name__, f"internal error, {type(exc).__name__}: {reason}{hint}", INTERNAL_ERROR)


class Numbers(click.ParamType[tuple[int, ...]]):
    """Whole numbers with commas between them."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        numbers = [part.strip() for part in value.split(",")]
        if not all(number.isdecimal() for number in numbers) or len(set(numbers)) < len(numbers):
            self.fail(f"'{value}' is not a list of numbers such as 0,1", param, ctx)
        return tuple(map(int, numbers))


def gpu_option(function: Any) -> Any:
    """The -g of commands that run on GPUs."""
    return click.option(
        "-g", "--gpu", "gpus", type=Numbers(), metavar="0,1", help="GPUs to use, by number; without it, GPU 0 if there is one."
    )(function)


def verbose_option(function: Any) -> Any:
    """The -v of every command."""

    def remember(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
        del parameter
        if value:
            ctx.find_root().meta["verbose"] = True

    return click.option(
        "-v", "--verbose", is_flag=True, expose_value=False, callback=remember, help="Say more; tracebacks with errors."
    )(function)


def verbose(ctx: click.Context) -> bool:
    return bool(ctx.find_root().meta.get("verbose"))


def _fail(ctx: click.Context, kind: str, message: str, code: int) -> NoReturn:
    if verbose(ctx):
        click.echo(traceback.format_exc(), err=True, nl=False)
    click.echo(f"error: {message}", err=True)
    _tell_program(ctx, kind, message, code)
    ctx.exit(code)


def _tell_program(ctx: click.Context, kind: str, message: str, code: int) -> None:
    if ctx.meta.get(_AS_JSON):
        print_json_error(ctx, kind, message, code)


def _how_to_install(error: ModuleNotFoundError) -> str:
    module = (error.name or str(error)).split(".")[0]
    extra = "[export]" if module in MEANT_FOR_EXPORT else ""
    return f'this command needs {module}, which is not installed here; install it with `pip install "sr-deploy{extra}"`'
