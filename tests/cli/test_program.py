from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result

import sr_deploy
from sr_deploy import cli
from sr_deploy.cli import Command, Group, verbose_option
from sr_deploy.errors import BackendUnavailableError, CheckpointError, UsageError
from sr_deploy.pictures.image import Picture, write_image

Invoke = Callable[..., Result]

DOCS = Path(__file__).parents[2] / "docs" / "cli.md"


def commands() -> Iterator[tuple[str, click.Command]]:
    context = click.Context(cli.program)
    for name in cli.program.list_commands(context):
        command = cli.program.get_command(context, name)
        assert command is not None
        yield name, command


@pytest.mark.parametrize(("name", "command"), list(commands()))
def test_every_command_explains_itself(name: str, command: click.Command) -> None:
    assert command.name == name
    assert command.help and command.help.strip().split("\n")[0].endswith(".")
    options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
    assert [option.name for option in options if not option.help] == []
    assert {"as_json", "verbose"} <= {option.name for option in options}
    result = CliRunner().invoke(cli.program, [name, "--help"])
    assert result.exit_code == 0
    assert f"Usage: program {name}" in result.stdout


@pytest.mark.parametrize(("name", "command"), list(commands()))
def test_the_help_of_every_command_ends_with_examples_that_parse(name: str, command: click.Command) -> None:
    assert isinstance(command, Command)
    text = CliRunner().invoke(cli.program, [name, "-h"]).stdout
    lines = [line.strip() for line in text.partition("\nExamples:\n")[2].splitlines()]
    assert len(lines) >= 2 and lines == list(command.examples)
    for line in lines:
        program, called, *arguments = shlex.split(line)
        assert (program, called) == ("sr-deploy", name)
        command.make_context(name, arguments, parent=click.Context(cli.program, **cli.program.context_settings))


def test_short_and_long_help_are_the_same() -> None:
    short, long = (CliRunner().invoke(cli.program, [option]) for option in ("-h", "--help"))
    assert (short.exit_code, short.stdout) == (0, long.stdout)
    listed = long.stdout.partition("\nCommands:\n")[2].splitlines()
    assert listed[0].split()[0] == "upscale"


def test_every_option_of_upscale_is_in_one_group() -> None:
    command = dict(commands())["upscale"]
    assert isinstance(command, Command)
    grouped = [name for names in command.groups.values() for name in names]
    options = {parameter.name for parameter in command.params if isinstance(parameter, click.Option)}
    assert len(grouped) == len(set(grouped))
    assert options - set(grouped) == {"more_inputs", "no_progress", "progress", "profile", "as_json", "verbose"}
    assert set(grouped) < options
    text = CliRunner().invoke(cli.program, ["upscale", "-h"]).stdout
    places = [text.index(f"\n{title}:\n") for title in (*command.groups, "Options", "Examples")]
    assert places == sorted(places)
    assert text.index("\nOptions for videos:") < text.index("--crf") < text.index("\nOptions for the machine:")


@pytest.mark.parametrize(("name", "command"), list(commands()))
def test_every_command_and_option_stands_in_the_docs(name: str, command: click.Command) -> None:
    sections = dict(re.findall(r"^## `(.+?)`\n(.*?)(?=^## |\Z)", DOCS.read_text(encoding="utf-8"), re.M | re.S))
    assert name in sections
    assert f"sr-deploy {name}" in sections[name]
    shared = (
        {option for parameter in dict(commands())["upscale"].params for option in parameter.opts} if name == "plan" else set()
    )
    names = {option for parameter in command.params for option in parameter.opts if option.startswith("--")} - shared
    assert {option for option in names - {"--json", "--verbose"} if option not in sections[name]} == set()


def test_the_docs_name_no_option_that_is_not_there() -> None:
    parameters = [parameter for _, command in commands() for parameter in command.params]
    known = {option for parameter in parameters for option in (*parameter.opts, *parameter.secondary_opts)}
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", DOCS.read_text(encoding="utf-8"))) <= known | {"--help", "--version"}


def test_version() -> None:
    result = CliRunner().invoke(cli.program, ["--version"])
    assert result.stdout == f"sr-deploy {sr_deploy.__version__}\n"


def test_help_loads_nothing_heavy() -> None:
    script = (
        "import sys; from sr_deploy.cli import program\n"
        "try: program(['--help'])\n"
        "except SystemExit: pass\n"
        "print({'numpy', 'cv2', 'onnx', 'openvino', 'torch', 'tqdm'} & set(sys.modules), file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "upscale" in result.stdout
    assert result.stderr.strip() == "set()"


def failing(error: BaseException) -> Group:
    class Raises(Group):
        def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
            del ctx

            @click.command(cmd_name)
            @verbose_option
            def command() -> None:
                raise error

            return command

    return Raises("program", modules=["fail"])


def fail(error: BaseException, *arguments: str) -> Result:
    return CliRunner().invoke(failing(error), ["fail", *arguments])


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (CheckpointError("x.pth: empty"), 1, "error: x.pth: empty\n"),
        (UsageError("no"), 2, "error: no\n"),
        (BackendUnavailableError("none"), 3, "error: none\n"),
        (KeyboardInterrupt(), 130, "error: interrupted; everything finished so far is whole, run the same command again"),
        (ModuleNotFoundError("No module named 'torch'", name="torch"), 3, "error: this command needs torch, which is not"),
        (ModuleNotFoundError("No module named 'cv2.x'", name="cv2.x"), 3, "error: this command needs cv2, which is not"),
        (ValueError("odd\nmore"), 1, "error: internal error, ValueError: odd; run again with -v"),
        (click.UsageError("wrong"), 2, "Usage:"),
    ],
)
def test_errors_become_one_line_and_a_code(error: BaseException, code: int, message: str) -> None:
    result = fail(error)
    assert result.exit_code == code
    assert result.stdout == ""
    assert result.stderr.startswith(message)
    if not isinstance(error, click.UsageError):
        assert result.stderr.count("\n") == 1


def test_how_to_install_names_the_extra() -> None:
    assert 'pip install "sr-deploy[export]"' in fail(ModuleNotFoundError("", name="torch")).stderr
    assert 'pip install "sr-deploy"' in fail(ModuleNotFoundError("", name="cv2")).stderr


def test_verbose_shows_the_traceback() -> None:
    for error in (ValueError("odd"), CheckpointError("x.pth: empty")):
        result = fail(error, "-v")
        assert "Traceback" in result.stderr
        assert result.stderr.splitlines()[-1].startswith("error: ")


def test_unknown_commands_and_options_are_wrong_usage() -> None:
    assert CliRunner().invoke(cli.program, ["enlarge"]).exit_code == 2
    assert CliRunner().invoke(cli.program, ["doctor", "--wrong"]).exit_code == 2


def test_the_nearest_command_and_option_are_named() -> None:
    result = CliRunner().invoke(cli.program, ["upscael", "photo.png"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.endswith("Error: No such command 'upscael'; did you mean 'upscale'?\n")
    result = CliRunner().invoke(cli.program, ["frobnicate"])
    assert result.exit_code == 2 and result.stderr.endswith("Error: No such command 'frobnicate'\n")
    result = CliRunner().invoke(cli.program, ["upscale", "photo.png", "--qualty", "3"])
    assert result.exit_code == 2 and "--quality" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        *(["upscale", "photo.png", option, "fats"] for option in ("-m", "--refine")),
        *([command, "fats"] for command in ("inspect", "verify", "bench", "tune")),
        ["evaluate", "fats", "--hr", "photos"],
        ["build", "fats", "--target", "rtx.toml"],
    ],
)
def test_a_wrong_network_is_wrong_usage_and_the_nearest_is_named(invoke: Invoke, arguments: list[str]) -> None:
    Path("rtx.toml").write_text('name = "rtx"\nbackend = "tensorrt-rtx"\n')
    if "--refine" in arguments:
        arguments = [*arguments, "--base", "fast"]
    result = invoke(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "fats: no" in result.stderr and result.stderr.endswith("; did you mean 'fast'?\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["upscale", "photo.png"],
        *([command, "fast"] for command in ("verify", "bench")),
        ["evaluate", "fast", "--hr", "photos"],
        ["doctor"],
    ],
)
def test_a_wrong_backend_is_wrong_usage_and_the_nearest_is_named(invoke: Invoke, arguments: list[str]) -> None:
    Path("photos").mkdir()
    write_image(Path("photos/a.png"), Picture(np.zeros((16, 16, 3), np.uint8)))
    result = invoke(*arguments, "--backend", "openvina")
    assert result.exit_code == 2
    assert "no backend 'openvina'" in result.stderr and result.stderr.endswith("; did you mean 'openvino'?\n")


def test_a_reader_that_leaves_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as stdout:
        process = subprocess.run(
            [sys.executable, "-c", "from sr_deploy.cli import main; main()", "doctor"],
            stdout=stdout,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert process.returncode == 1
    assert process.stderr == b""
