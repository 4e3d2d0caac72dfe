"""Networks that teach: which reading of their weights, and which are refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sr_deploy.architectures.mga import MGAConfig
from sr_deploy.architectures.pan_mga import ARCHITECTURE as PAN_MGA
from sr_deploy.architectures.rlfn import ARCHITECTURE as RLFN
from sr_deploy.architectures.rlfn import RLFNConfig
from sr_deploy.bundle import sha256_of
from sr_deploy.errors import CancelledError, UsageError
from sr_deploy.models import resolve
from sr_deploy.training import train
from sr_deploy.training.degradation.settings import Degradation, DegradationRound, Jpeg
from sr_deploy.training.generated import GeneratedContent
from sr_deploy.training.job import prepare, read_content, stage_crops
from sr_deploy.training.losses import Loss
from sr_deploy.training.photos import hold_out
from sr_deploy.training.recipe import LossWeights
from sr_deploy.training.teacher import read_teacher
from sr_deploy.training.validation import ValidationScore, as_tensor, validate
from tests.graphs import masked_bundle
from tests.training.conftest import MakeRecipe

TEACHER = Path(__file__).parents[2] / "training" / "weights" / "quality_small_x2.pth"
CPU = torch.device("cpu")
TAUGHT = LossWeights(teacher=1.0)


def test_a_published_teacher_is_read_in_its_own_range(make_recipe: MakeRecipe, shared: Path) -> None:
    job = prepare(make_recipe())
    teacher = read_teacher(shared / "checkpoints" / "rlfn_x2.pth", job.config, job.validation, job.bicubic, CPU)
    published = RLFN.build(RLFNConfig(scale=2, colors=3))
    published.load_state_dict(torch.load(shared / "checkpoints" / "rlfn_x2.pth", weights_only=True, map_location=CPU))
    expected = validate(lambda x: published(255 * x) / 255, job.validation, CPU)
    assert teacher.psnr_y == pytest.approx(expected.psnr_y)
    assert (teacher.title, teacher.license) == ("RLFN", "Apache-2.0"), "that of the recipe of the published file"


def test_a_bundle_teaches_as_its_checkpoint_does(make_recipe: MakeRecipe) -> None:
    job = prepare(make_recipe())
    bundle, checkpoint = (
        read_teacher(path, job.config, job.validation, job.bicubic, CPU, license_name=license_name)
        for path, license_name in ((resolve("quality-small-x2"), ""), (TEACHER, "MIT"))
    )
    assert bundle.psnr_y == pytest.approx(checkpoint.psnr_y, abs=1e-3)
    lr = as_tensor(job.validation[0].lr[None], CPU)
    with torch.no_grad():
        torch.testing.assert_close(bundle.network(lr), checkpoint.network(lr).clamp(0, 1), atol=2e-5, rtol=0)
    assert (bundle.title, bundle.license, checkpoint.license) == ("quality_small_x2", "MIT", "MIT")


def test_bundles_of_another_kind_do_not_teach(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    job = prepare(make_recipe())
    masked_bundle(tmp_path)
    for path, words in (
        (resolve("fast-x4"), "a teacher for x4 with 3 colors"),
        (tmp_path, "a mask-guided network teaches nothing"),
    ):
        with pytest.raises(UsageError, match=words):
            read_teacher(path, job.config, job.validation, job.bicubic, CPU)


def test_what_taught_stays_known(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    stages = (replace(make_recipe().stages[0], losses=TAUGHT, steps=1),)
    said: list[str] = []
    train(make_recipe(teacher="quality-small-x2", stages=stages), tmp_path / "run", say=said.append)
    teacher = json.loads((tmp_path / "run" / "training.json").read_text())["teacher"]
    assert (teacher["title"], teacher["license"]) == ("quality_small_x2", "MIT")
    assert teacher["sha256"] == sha256_of(resolve("quality-small-x2") / "fp32.onnx")
    assert any("taught by quality_small_x2 (MIT)" in line for line in said)


@pytest.mark.parametrize("sees", ["clean", "degraded"])
def test_a_teacher_sees_clean_or_degraded_lr(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sees: str
) -> None:
    """A published network knows bicubic LR alone: on degraded photos it is worse than bicubic, and does not teach."""
    degradation = Degradation((DegradationRound(jpeg=Jpeg(quality=(5, 5))),))
    stages = (replace(make_recipe().stages[0], losses=TAUGHT, steps=1),)
    recipe = make_recipe(teacher=str(TEACHER), stages=stages, degradation=degradation, teacher_sees=sees)
    seen: list[torch.Tensor] = []
    taught = Loss.taught
    monkeypatch.setattr(Loss, "taught", lambda self, lr: [seen.append(lr), taught(self, lr)][1])
    if sees == "degraded":
        monkeypatch.setattr("sr_deploy.training.job.validate_bicubic", lambda _: ValidationScore(0, 0))
    train(recipe, tmp_path / "run")
    batch = stage_crops(recipe, 0, hold_out(read_content(recipe)[0], recipe.hold_out)[0], [])(0)
    torch.testing.assert_close(seen[0], as_tensor(batch.clean if sees == "clean" else batch.lr, CPU))
    assert not np.array_equal(batch.clean, batch.lr)


def test_generated_pictures_are_learned_from_themselves(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    losses = []
    for share, weights in ((1.0, TAUGHT), (1.0, LossWeights(l1=1.0)), (0.0, TAUGHT)):
        stages = (replace(make_recipe().stages[0], losses=weights, steps=1),)
        teacher = str(TEACHER) if weights.teacher else ""
        recipe = make_recipe(teacher=teacher, stages=stages, generated=GeneratedContent(share=share, pictures=4))
        run = train(recipe, tmp_path / f"{len(losses)}")
        losses.append((run.checkpoint.parent / "log.csv").read_text().splitlines()[-1].split(",")[3])
    assert losses[0] == losses[1] != losses[2]


def test_a_network_learns_its_teachers_images(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = make_recipe(teacher=str(TEACHER), stages=(replace(make_recipe().stages[0], losses=TAUGHT),))
    job = prepare(recipe)
    assert job.teacher is not None
    lr = as_tensor(job.validation[0].lr[None], CPU)
    distances = []
    for steps in (1, 40):
        run = train(replace(recipe, stages=(replace(recipe.stages[0], steps=steps),)), tmp_path / f"{steps}")
        network = job.build()
        network.load_state_dict(torch.load(run.training_form, weights_only=True)["params"])
        with torch.no_grad():
            distances.append(float(F.l1_loss(network(lr), job.teacher.network(lr))))
    assert distances[1] < 0.7 * distances[0]


def test_another_teacher_does_not_go_on_in_the_folder(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    state = torch.load(TEACHER, weights_only=True)["params"]
    torch.save({"params": {key: tensor * 0.999 for key, tensor in state.items()}}, tmp_path / "other.pth")
    stages = (replace(make_recipe().stages[0], losses=TAUGHT),)
    first, other = (make_recipe(teacher=str(teacher), stages=stages) for teacher in (TEACHER, tmp_path / "other.pth"))
    with pytest.raises(CancelledError):
        train(first, tmp_path / "run", stopped=lambda: True)
    with pytest.raises(UsageError, match="another recipe or other photos"):
        train(other, tmp_path / "run")
    train(first, tmp_path / "run")


def random_rlfn(scale: int) -> torch.nn.Module:
    return RLFN.build(RLFNConfig(scale=scale, colors=3, channels=8, inner=8, esa=4, blocks=1))


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (random_rlfn(2), "on the validation photos, where bicubic has"),
        (random_rlfn(4), "a teacher for x4 with 3 colors; the recipe trains x2 with 3"),
        (
            PAN_MGA.build(MGAConfig(scale=2, colors=3, channels=8, blocks=3, refine_blocks=1)),
            "a mask-guided network teaches nothing",
        ),
    ],
    ids=["random", "scale", "mask-guided"],
)
def test_who_cannot_teach(make_recipe: MakeRecipe, tmp_path: Path, network: torch.nn.Module, words: str) -> None:
    torch.save({"params": network.state_dict()}, tmp_path / "teacher.pth")
    recipe = make_recipe(teacher=str(tmp_path / "teacher.pth"), stages=(replace(make_recipe().stages[0], losses=TAUGHT),))
    with pytest.raises(UsageError, match=words):
        prepare(recipe)


def test_a_teacher_and_its_loss_go_together(make_recipe: MakeRecipe) -> None:
    with pytest.raises(UsageError, match="no teacher; name a bundle or a checkpoint in `teacher`, or with"):
        prepare(make_recipe(stages=(replace(make_recipe().stages[0], losses=TAUGHT),)))
    with pytest.raises(UsageError, match="no stage has a weight for its loss"):
        prepare(make_recipe(teacher=str(TEACHER)))
