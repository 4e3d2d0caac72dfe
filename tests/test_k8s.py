"""The manifests of docker/k8s and the script of docs/cluster.md, without a cluster."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import kubernetes_validate
import pytest
import yaml

from sr_deploy.cli import program
from tests.docs import ROOT, blocks

FILES = sorted((ROOT / "docker" / "k8s").glob("*.yaml"))


def named(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The manifests of a file: the first is called like it, others by their kind, too."""
    for index, manifest in enumerate(yaml.safe_load_all(path.read_text(encoding="utf-8"))):
        yield f"{path.stem} {manifest['kind']}" if index else path.stem, manifest


MANIFESTS = {name: manifest for path in FILES for name, manifest in named(path)}
JOBS = [name for name, manifest in MANIFESTS.items() if manifest["kind"] == "Job"]
PAGE, SERVING = ROOT / "docs" / "cluster.md", ROOT / "docs" / "serving.md"
VERSION = "1.33"


def parsed(words: list[str]) -> dict[str, Any]:
    """The parameters of a command line of ours. Raises: click.UsageError."""
    command = program.get_command(click.Context(program), words[0])
    assert command is not None, words
    return command.make_context(words[0], words[1:], parent=click.Context(program, **program.context_settings)).params


def pods(manifest: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The pod templates of a manifest."""
    spec = manifest["spec"]
    if manifest["kind"] == "RayJob":
        cluster = spec["rayClusterSpec"]
        yield from (group["template"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]))
    elif manifest["kind"] in ("Job", "Deployment"):
        yield spec["template"]


def arguments(name: str) -> list[str]:
    (pod,) = pods(MANIFESTS[name])
    (container,) = pod["spec"]["containers"]
    return container["args"]


def as_schema(manifest: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What of a manifest Kubernetes has a schema for: all of it, or its pod templates."""
    if manifest["kind"] == "RayJob":
        yield from ({"apiVersion": "v1", "kind": "PodTemplate", "template": pod} for pod in pods(manifest))
    else:
        yield manifest


@pytest.mark.parametrize("name", sorted(MANIFESTS))
def test_a_manifest_fits_the_schemas_of_kubernetes(name: str) -> None:
    for document in as_schema(MANIFESTS[name]):
        kubernetes_validate.validate(document, VERSION, strict=True)


@pytest.mark.parametrize("name", ["join", "rayjob", "serve"])
def test_a_wrong_key_of_a_container_does_not_fit(name: str) -> None:
    manifest = json.loads(json.dumps(MANIFESTS[name]))
    next(pods(manifest))["spec"]["containers"][0]["argz"] = []
    with pytest.raises(kubernetes_validate.ValidationError, match="argz"):
        for document in as_schema(manifest):
            kubernetes_validate.validate(document, VERSION, strict=True)


def test_every_pod_has_the_volume_a_known_image_and_no_root() -> None:
    images = set(re.findall(r"docker build .* -t (\S+) \.", (ROOT / "docker" / "README.md").read_text(encoding="utf-8")))
    claim = MANIFESTS["volume"]["metadata"]["name"]
    for pod in (pod["spec"] for manifest in MANIFESTS.values() for pod in pods(manifest)):
        (container,) = pod["containers"]
        (volume,) = pod["volumes"]
        assert container["image"] in images
        assert volume["persistentVolumeClaim"]["claimName"] == claim
        assert container["volumeMounts"] == [{"name": volume["name"], "mountPath": "/films"}]
        assert pod["securityContext"]["runAsUser"] > 0


@pytest.mark.parametrize("index", [0, 15])
def test_the_three_jobs_are_of_one_film(index: int) -> None:
    plan, join = parsed(arguments("plan")), parsed(arguments("join"))
    words = [word.replace("$(JOB_COMPLETION_INDEX)", str(index)) for word in arguments("segments")]
    segment, spec = parsed(words), MANIFESTS["segments"]["spec"]
    assert segment["shard"] == (index, spec["completions"]) and spec["completionMode"] == "Indexed"
    assert MANIFESTS["segments"]["spec"]["template"]["spec"]["restartPolicy"] == "Never"
    assert join["plan"] == segment["plan"] == Path(f"{plan['output']}.part")
    assert plan["threads"] == segment["threads"]


def test_ray_runs_a_command_that_parses_and_the_ray_of_the_constraints() -> None:
    spec = MANIFESTS["rayjob"]["spec"]
    name, *words = shlex.split(spec["entrypoint"])
    asked = parsed(words)
    assert (name, asked["on"]) == ("sr-deploy", "ray")
    assert f"ray=={spec['rayClusterSpec']['rayVersion']}\n" in (ROOT / "constraints.txt").read_text(encoding="utf-8")
    for group in spec["rayClusterSpec"]["workerGroupSpecs"]:
        (container,) = group["template"]["spec"]["containers"]
        assert int(container["resources"]["limits"]["cpu"]) % asked["worker_cpus"] == 0


def test_the_service_runs_what_its_image_runs_and_is_asked_where_it_listens() -> None:
    """The command itself is parsed with that of the image, which differs in the spool and the networks."""
    (pod,), service = pods(MANIFESTS["serve"]), MANIFESTS["serve Service"]
    (container,) = pod["spec"]["containers"]
    (port,) = container["ports"]
    dockerfile = (ROOT / "docker" / "Dockerfile.serve").read_text(encoding="utf-8")
    (default,) = re.findall(r"^CMD (.+)$", dockerfile, re.MULTILINE)
    words, args = json.loads(default), container["args"]
    assert args[: len(words) - 1] == words[:-1] and str(port["containerPort"]) in words
    assert args[len(words) - 1].startswith("/films/")
    paths = {name: container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "liveness", "readiness")}
    assert paths == {"startup": "/live", "liveness": "/live", "readiness": "/ready"}
    assert {container[f"{name}Probe"]["httpGet"]["port"] for name in paths} == {port["name"]}
    (way,) = service["spec"]["ports"]
    assert way["targetPort"] == port["name"]
    labels = pod["metadata"]["labels"]
    assert service["spec"]["selector"] == labels == MANIFESTS["serve"]["spec"]["selector"]["matchLabels"]
    assert not container["securityContext"]["allowPrivilegeEscalation"]


def test_the_token_is_a_secret_that_the_page_makes() -> None:
    (pod,) = pods(MANIFESTS["serve"])
    (variable,) = pod["spec"]["containers"][0]["env"]
    secret = variable["valueFrom"]["secretKeyRef"]
    assert variable["name"] == "SR_DEPLOY_TOKEN"
    line = f"kubectl create secret generic {secret['name']} --from-literal={secret['key']}="
    assert line in "".join(blocks(SERVING, "bash"))


SBATCH = r"""#!/bin/bash
tasks=-
for word; do
    case $word in
        --array=*) tasks=$(seq -s ' ' $(tr - ' ' <<<"${word#--array=}")) ;;
        --cpus-per-task=*) export SLURM_CPUS_PER_TASK=${word#*=} ;;
        --dependency=*) echo "after ${word#*:}" >>"$RECORD" ;;
    esac
done
for task in $tasks; do SLURM_ARRAY_TASK_ID=$task bash -c "${!#}" || exit; done
echo $(($(grep -c . "$RECORD") + 100))
"""
"""Runs at once what it is given, with SLURM's variables."""


def slurm_scripts() -> list[str]:
    return [block for block in blocks(PAGE, "bash") if "sbatch" in block]


def test_the_scripts_for_slurm_run_commands_that_parse(tmp_path: Path) -> None:
    record = tmp_path / "record"
    for name, text in {"sbatch": SBATCH, "sr-deploy": '#!/bin/bash\necho "$@" >>"$RECORD"\n'}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    film, photos = slurm_scripts()
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "RECORD": str(record)}
    for script in (film, photos):
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)
        subprocess.run(["bash", "-eu"], input=script, text=True, check=True, env=environment, cwd=tmp_path)
    lines = [line.split() for line in record.read_text().splitlines()]
    commands = [line for line in lines if line[0] != "after"]
    assert [line[0] for line in commands] == ["plan", *["segment"] * 16, "join", *["upscale"] * 16]
    assert [line for line in lines if line[0] == "after"] == [["after", "101"], ["after", "118"]]
    plan, *segments, join = map(parsed, commands[:18])
    assert [segment["shard"] for segment in segments] == [(index, 16) for index in range(16)]
    assert {segment["plan"] for segment in segments} == {join["plan"]} == {Path(f"{plan['output']}.part")}
    assert [parsed(words)["shard"] for words in commands[18:]] == [(index, 16) for index in range(16)]


def test_the_other_lines_of_the_page_parse_and_name_manifests_that_are_there() -> None:
    text = "".join(block for block in blocks(PAGE, "bash") if "sbatch" not in block)
    ours = re.findall(r"^(?:\w+=\S+ )?sr-deploy (.+?)(?:\s+#.*)?$", text, flags=re.MULTILINE)
    assert ours and all(parsed(shlex.split(line))["on"] == "ray" for line in ours)
    named = set(re.findall(r"docker/k8s/(\w+)\.yaml", text + "".join(blocks(SERVING, "bash"))))
    assert named == {path.stem for path in FILES}
    names = {f"job/{MANIFESTS[name]['metadata']['name']}" for name in JOBS}
    assert set(re.findall(r"\bjob/\w+", text)) == names
