"""What can be said of the Docker files without a Docker engine."""

from __future__ import annotations

import fnmatch
import json
import re
import shlex
import subprocess
import threading
import tomllib
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import click
import pytest
import yaml

from tests.wheels import FOLDERS

ROOT = Path(__file__).parents[1]
DOCKER = ROOT / "docker"
DOCKERFILES = sorted(DOCKER.glob("Dockerfile.*"))
COMPOSE = (DOCKER / "compose.yaml").read_text(encoding="utf-8")
README = (DOCKER / "README.md").read_text(encoding="utf-8")

every_dockerfile = pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)


@dataclass
class Stage:
    """One FROM with what follows it."""

    base: str
    name: str
    steps: list[tuple[str, str]] = field(default_factory=list)

    def arguments(self, *instructions: str) -> list[str]:
        return [text for instruction, text in self.steps if instruction in instructions]


def parse(path: Path) -> tuple[dict[str, str], list[Stage]]:
    """The defaults of the ARGs, and the stages; ARGs are put in."""
    text = re.sub(r"^\s*#.*\n", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    known: dict[str, str] = {}
    stages: list[Stage] = []
    for line in re.sub(r"\s*\\\n\s*", " ", text).splitlines():
        if not line.strip():
            continue
        instruction, _, rest = line.partition(" ")
        rest = re.sub(r"\$\{(\w+)\}", lambda match: known[match[1]], rest)
        if instruction == "ARG":
            name, separator, default = rest.partition("=")
            assert separator and default, f"{path.name}: ARG {name} has no default"
            known[name] = default
        elif instruction == "FROM":
            base, _, name = rest.partition(" AS ")
            stages.append(Stage(base, name))
        else:
            stages[-1].steps.append((instruction, rest))
    return known, stages


def is_sent(path: Path) -> bool:
    """Whether .dockerignore lets a path of the repository into the build."""
    sent = True
    relative = path.relative_to(ROOT).as_posix()
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        pattern = line.removeprefix("!")
        if line and not line.startswith("#") and fnmatch.fnmatch(relative, pattern):
            sent = line.startswith("!")
    return sent


EXTRAS = {".cpu": set(), ".ray": {"cluster"}, ".serve": {"serve"}}
"""What images install beside the base; that of TensorRT has an argument for it."""


def test_there_is_one_for_the_cpu_one_that_serves_one_for_nodes_of_ray_and_one_for_tensorrt() -> None:
    assert {path.suffix for path in DOCKERFILES} == {*EXTRAS, ".tensorrt"}


@every_dockerfile
def test_bases_are_pinned(path: Path) -> None:
    _, stages = parse(path)
    assert len({stage.base for stage in stages}) == 1
    for stage in stages:
        name, _, tag = stage.base.partition(":")
        assert name in ("python", "nvidia/cuda", "rayproject/ray")
        assert re.match(r"\d+\.\d+", tag), f"{stage.base} is not pinned"


@every_dockerfile
def test_sources_of_copies_are_there_and_reach_the_build(path: Path) -> None:
    _, stages = parse(path)
    for stage in stages:
        assert not stage.arguments("ADD")
        for text in stage.arguments("COPY"):
            *sources, target = text.removeprefix("--chown=ray ").split()
            assert target.startswith("/")
            if sources[0].startswith("--from="):
                assert sources[0].removeprefix("--from=") in {stage.name for stage in stages}
                continue
            for source in sources:
                assert (ROOT / source).exists(), source
                assert is_sent(ROOT / source), source


@every_dockerfile
def test_what_the_package_is_built_from_is_copied(path: Path) -> None:
    _, (build, *_) = parse(path)
    copied = {source for text in build.arguments("COPY") for source in text.split()[:-1]}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {"pyproject.toml", "setup.py", "sr_deploy", *FOLDERS, project["readme"], *project["license-files"]} <= copied


def test_nothing_else_reaches_the_build() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    sent = {name.split("/")[0] for name in listed if is_sent(ROOT / name.split("/")[0])}
    assert sent <= {"pyproject.toml", "setup.py", "constraints.txt", "README.md", "LICENSE", "NOTICE", "sr_deploy", *FOLDERS}
    assert not is_sent(ROOT / "training" / "weights")


@every_dockerfile
def test_pip_installs_this_project_with_extras_that_exist(path: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    known, stages = parse(path)
    installs = [
        shlex.split(command)
        for stage in stages
        for text in stage.arguments("RUN")
        for command in text.split("&&")
        if "pip install" in command
    ]
    assert len(installs) == 1
    (words,) = installs
    match = re.fullmatch(r"(.*/source)(?:\[(.+)\])?", words[-1])
    assert match
    assert {"--no-cache-dir", "-c", f"{match[1]}/constraints.txt"} <= set(words)
    wanted = set(match[2].split(",")) if match[2] else set()
    extras = {name.replace("_", "-") for name in project["optional-dependencies"]}
    assert wanted <= extras, "older pips know no other spelling"
    assert not wanted & {"export", "dev", "spandrel"}, "torch has no place in an image"
    assert wanted == (EXTRAS[path.suffix] if path.suffix in EXTRAS else set(known["EXTRAS"].split(",")))


@every_dockerfile
def test_apt_leaves_no_lists(path: Path) -> None:
    _, stages = parse(path)
    for text in (text for stage in stages for text in stage.arguments("RUN") if "apt-get" in text):
        assert "apt-get update && apt-get install --yes --no-install-recommends " in text
        assert text.endswith("&& rm -rf /var/lib/apt/lists/*")


@every_dockerfile
def test_the_image_runs_the_program_as_a_user_and_watches_itself(path: Path) -> None:
    _, (*builds, final) = parse(path)
    assert not any(build.arguments("ENTRYPOINT", "CMD", "USER", "HEALTHCHECK") for build in builds)
    (user,) = final.arguments("USER")
    added = [text.split()[-1] for text in final.arguments("RUN") if text.startswith("useradd")]
    assert user not in ("root", "0") and added == ([] if user == "ray" else [user])
    assert final.steps.index(("USER", user)) > max(at for at, (name, _) in enumerate(final.steps) if name in ("RUN", "COPY"))
    (health,) = final.arguments("HEALTHCHECK")
    asks = json.loads(health.partition("CMD ")[2])
    (entry,) = final.arguments("ENTRYPOINT")
    assert json.loads(entry) == ["sr-deploy"]
    (default,) = final.arguments("CMD")
    if path.suffix == ".serve":
        assert asks[:2] == ["python", "-c"] and json.loads(default)[0] == "serve"
    else:
        assert (asks, json.loads(default)) == (["sr-deploy", "doctor"], ["--help"])
    assert not builds or any("PATH=/opt/sr-deploy/bin:" in text for text in final.arguments("ENV"))


class Answers(BaseHTTPRequestHandler):
    """Alive, and 404 for all else."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/live" else 404)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        del format, args


def test_the_service_is_healthy_while_it_answers() -> None:
    _, (_, final) = parse(DOCKER / "Dockerfile.serve")
    (port,), (health,) = final.arguments("EXPOSE"), final.arguments("HEALTHCHECK")
    _, _, code = json.loads(health.partition("CMD ")[2])
    assert f"127.0.0.1:{port}/" in code
    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        exec(code.replace(f":{port}/", f":{server.server_port}/"))
        with pytest.raises(OSError):
            exec(code.replace(f":{port}/live", f":{server.server_port}/gone"))
        server.shutdown()
    with pytest.raises(OSError):
        exec(code.replace(f":{port}/", f":{server.server_port}/"))


def test_nodes_of_ray_have_the_ray_of_the_constraints() -> None:
    _, (stage,) = parse(DOCKER / "Dockerfile.ray")
    (version,) = re.findall(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert stage.base == f"rayproject/ray:{version}-py311"


def services() -> dict[str, str]:
    """The text of each service of compose.yaml."""
    text = COMPOSE.partition("services:\n")[2].partition("\nvolumes:\n")[0]
    parts = re.split(r"^  (?=\w+:$)", text, flags=re.MULTILINE)[1:]
    return {part.partition(":")[0]: part for part in parts}


def test_compose_names_dockerfiles_and_arguments_that_exist() -> None:
    assert list(services()) == ["cpu", "gpu", "serve"]
    for service in services().values():
        (name,) = re.findall(r"^      dockerfile: docker/(\S+)$", service, flags=re.MULTILINE)
        (context,) = re.findall(r"^      context: (\S+)$", service, flags=re.MULTILINE)
        assert (DOCKER / context).resolve() == ROOT
        known, _ = parse(DOCKER / name)
        given = re.findall(r"^        (\w+): \$\{(\w+):-(.+)\}$", service, flags=re.MULTILINE)
        assert given
        for argument, variable, default in given:
            assert argument == variable
            assert known[argument] == default
        assert ("driver: nvidia" in service) == (service.startswith("gpu"))
        (image,) = re.findall(r"^    image: \S+:(\S+)$", service, flags=re.MULTILINE)
        assert image != "latest" and f"-t sr-deploy:{image} ." in README
    assert "\t" not in COMPOSE and all(len(re.match(" *", line)[0]) % 2 == 0 for line in COMPOSE.splitlines())  # type: ignore[index]


def test_compose_reads_pictures_and_writes_as_the_user() -> None:
    for name in ("cpu", "gpu"):
        service = services()[name]
        assert re.search(r"^    user: ", service, flags=re.MULTILINE)
        assert re.findall(r":(/\w+)(:ro)?$", service, flags=re.MULTILINE) == [("/models", ":ro"), ("/in", ":ro"), ("/out", "")]


def test_compose_serves_this_machine_alone_with_a_token_and_keeps_the_spool() -> None:
    service = yaml.safe_load(COMPOSE)["services"]["serve"]
    _, (_, final) = parse(DOCKER / "Dockerfile.serve")
    (port,), (default,) = final.arguments("EXPOSE"), final.arguments("CMD")
    assert service["ports"] == [f"127.0.0.1:${{PORT:-{port}}}:{port}"]
    assert service["environment"]["SR_DEPLOY_TOKEN"].startswith("${SR_DEPLOY_TOKEN:?")
    words = json.loads(default)
    assert service["command"][: len(words)] == words
    volume, _, inside = service["volumes"][-1].partition(":")
    assert volume in yaml.safe_load(COMPOSE)["volumes"] and inside == words[words.index("--spool") + 1]
    assert any(text.endswith(f"--owner=upscaler {inside}") for text in final.arguments("RUN"))


def test_compose_runs_a_command_that_parses() -> None:
    from click.testing import CliRunner

    from sr_deploy.cli import program

    for text in re.findall(r'^    command: (\["upscale".+\])$', COMPOSE, flags=re.MULTILINE):
        words = json.loads(re.sub(r"\$\{\w+:-(\w+)\}", r"\1", text))
        result = CliRunner().invoke(program, words)
        assert (result.exit_code, "/models/rlfn" in result.stderr) == (1, True), result.output


def test_commands_that_serve_parse() -> None:
    """Those of the image, of compose and of Kubernetes."""
    from sr_deploy.cli import program

    _, (_, final) = parse(DOCKER / "Dockerfile.serve")
    (default,) = final.arguments("CMD")
    deployment, *_ = yaml.safe_load_all((DOCKER / "k8s" / "serve.yaml").read_text(encoding="utf-8"))
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    composed = yaml.safe_load(re.sub(r"\$\{\w+:-(\w+)\}", r"\1", COMPOSE))["services"]["serve"]["command"]
    for name, *words in (json.loads(default), composed, container["args"]):
        command = program.get_command(click.Context(program), name)
        assert command is not None
        parameters = command.make_context(name, words, parent=click.Context(program, **program.context_settings)).params
        assert (parameters["host"], parameters["port"]) == ("0.0.0.0", 8000)


def test_the_readme_runs_commands_that_are_there() -> None:
    from sr_deploy.cli import program

    text = re.sub(r" \\\n +", " ", README)
    runs = re.findall(r"^\$ docker run .* sr-deploy:[\w-]+ (.+)$", text, flags=re.MULTILINE)
    assert len(runs) == 3
    for run in runs:
        name, *words = run.split()
        command = program.get_command(click.Context(program), name)
        assert command is not None
        command.make_context(name, words, parent=click.Context(program, **program.context_settings))


def test_the_readme_names_the_arguments() -> None:
    for path in DOCKERFILES:
        for argument, default in parse(path)[0].items():
            assert f"| `{argument}` | `{default}` |" in README
