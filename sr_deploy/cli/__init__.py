"""`sr-deploy`: a command is a file of this package; its body parses, calls the library once, and prints.

Here is what commands share: the group that finds them by name, where errors become messages and exit codes, and their options.
"""

from __future__ import annotations

import errno
import importlib
import io
import os
import signal
import sys
import traceback
from collections.abc import Mapping, Sequence
from itertools import takewhile
from types import FrameType
from typing import Any, NoReturn, get_args

import click

from sr_deploy import __version__
from sr_deploy.card import PrecisionChoice
from sr_deploy.errors import CancelledError, MissingDependencyError, SrDeployError, UsageError, did_you_mean, first_line

__all__ = ["main", "program"]

COMMANDS = (
    *("upscale", "compare", "serve", "plan", "segment", "join", "models", "fetch", "doctor", "export", "inspect", "verify"),
    *("evaluate", "bench", "tune", "build", "engines", "repository", "train", "architectures"),
)
INTERNAL_ERROR = 1
EXTRAS = {
    **dict.fromkeys(("torch", "safetensors", "onnxscript"), "[export]"),
    "ray": "[cluster]",
    **dict.fromkeys(("fastapi", "pydantic", "starlette", "uvicorn", "prometheus_client", "python_multipart"), "[serve]"),
}
"""By a module that may be missing, what installs it."""

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
            reason = first_line(exc)
            hint = "" if verbose(ctx) else "; run again with -v for the whole story, and please report it"
            _fail(ctx, type(exc).__name__, f"internal error, {type(exc).__name__}: {reason}{hint}", INTERNAL_ERROR)


class Command(click.Command):
    """A command whose help groups its options and ends with examples.

    examples: whole command lines. groups: by title, the names of the parameters below it; those of no group come last, below
    `Options`.
    """

    def __init__(
        self, *args: Any, examples: Sequence[str], groups: Mapping[str, Sequence[str]] | None = None, **options: Any
    ) -> None:
        super().__init__(*args, **options)
        self.examples = tuple(examples)
        self.groups = dict(groups or {})

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        title_of = {name: title for title, names in self.groups.items() for name in names}
        sections: dict[str, list[tuple[str, str]]] = {title: [] for title in (*self.groups, "Options")}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx) if isinstance(parameter, click.Option) else None
            if record is not None:
                sections[title_of.get(parameter.name or "", "Options")].append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_epilog(ctx, formatter)
        with formatter.section("Examples"):
            for example in self.examples:
                formatter.write(f"{'':{formatter.current_indent}}{example}\n")


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


class Shard(click.ParamType[tuple[int, int]]):
    """I/N, the part of number I of N, from 0."""

    name = "i/n"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        first, _, count = value.partition("/")
        if not (first.isdecimal() and count.isdecimal() and int(first) < int(count)):
            self.fail(f"'{value}' is no part such as 0/4, 1/4, 2/4 or 3/4", param, ctx)
        return int(first), int(count)


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")


def engine_options(function: Any) -> Any:
    """What a network runs on, for commands that measure or compare it."""
    for option in (
        click.option("--threads", type=click.IntRange(min=1), help="Threads of the runtime.  [default: all cores]"),
        click.option(
            "--precision", type=click.Choice(get_args(PrecisionChoice)), default="auto", show_default=True, help="Arithmetic."
        ),
        click.option("--allow-cpu", is_flag=True, help="Run on the CPU where there is a GPU that no runtime can use."),
        click.option("--backend", default="auto", show_default=True, help="Inference runtime; `sr-deploy doctor` lists them."),
    ):
        function = option(function)
    return function


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


@click.group(cls=Group, modules=COMMANDS, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="sr-deploy", message="%(prog)s %(version)s")
def program() -> None:
    """Take a trained super-resolution checkpoint to pixels.

    Exit codes: 0 all good; 1 some input failed, the rest is done; 2 wrong usage; 3 something is missing on this machine;
    130 interrupted, and the same command goes on.
    """


def main() -> None:
    """Run the program with the arguments of this process, and exit with its code."""
    signal.signal(signal.SIGTERM, _terminate)
    _keep_stderr()
    _keep_names()
    program(prog_name="sr-deploy")


def _keep_stderr() -> None:
    """Give Python's stderr a descriptor of its own: while images are decoded, descriptor 2 is listened to.

    Where the caller has closed it, what would be told goes nowhere, and no file that is opened later becomes descriptor 2.
    """
    while (unused := os.open(os.devnull, os.O_WRONLY)) <= 2:
        pass
    os.close(unused)
    encoding, errors = (getattr(sys.stderr, name, None) for name in ("encoding", "errors"))
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, encoding=encoding, errors=errors)


def _keep_names() -> None:
    """Print paths byte for byte, also those that are not in the encoding of stdout."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")


def _terminate(number: int, frame: FrameType | None) -> None:
    """A polite kill unwinds like Ctrl-C, so nothing half-written stays."""
    del frame
    sys.exit(128 + number)


def _fail(ctx: click.Context, kind: str, message: str, code: int) -> NoReturn:
    if verbose(ctx):
        click.echo(traceback.format_exc(), err=True, nl=False)
    click.echo(f"error: {message}", err=True)
    _tell_program(ctx, kind, message, code)
    ctx.exit(code)


def _tell_program(ctx: click.Context, kind: str, message: str, code: int) -> None:
    if ctx.meta.get(_AS_JSON):
        from sr_deploy.cli.output import print_json_error

        print_json_error(ctx, kind, message, code)


def _how_to_install(error: ModuleNotFoundError) -> str:
    module = (error.name or str(error)).split(".")[0]
    extra = EXTRAS.get(module, "")
    return f'this command needs {module}, which is not installed here; install it with `pip install "sr-deploy{extra}"`'
