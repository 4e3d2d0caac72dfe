"""The run of a recipe: its stages in order, interruptible between any two steps."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter

import torch

from sr_deploy.architectures.checkpoint import TRAINED_AS
from sr_deploy.errors import CancelledError, UnhealthyOutputError
from sr_deploy.training.crops import Ahead, Batch
from sr_deploy.training.curve import as_csv, as_png
from sr_deploy.training.job import TrainingJob, prepare
from sr_deploy.training.losses import Loss
from sr_deploy.training.merging import merged_state, run_merged
from sr_deploy.training.objectives import objective
from sr_deploy.training.optimization import Optimization, learning_rate
from sr_deploy.training.recipe import TrainingRecipe, as_toml, portable
from sr_deploy.training.state import LogLine, TrainingState, alone, load_state, save_state, save_weights, write_whole
from sr_deploy.training.validation import ValidationScore, as_tensor, validate
from sr_deploy.training.warm_start import warm_start

CHECKPOINT, TRAINING_FORM, STATE, STAGE = "checkpoint.pth", "training_form.pth", "state.pth", "stage_{}.pth"


@dataclass(frozen=True)
class Trained:
    """What a run leaves: `checkpoint`, to export; `training_form`, to train on from; beside them log.csv and curve.png.

    `merge_difference`: largest difference between the two forms, a share of the value range.
    """

    checkpoint: Path
    training_form: Path
    score: ValidationScore
    bicubic: ValidationScore
    steps: int
    seconds: float
    merge_difference: float


def train(
    recipe: TrainingRecipe,
    output: Path,
    *,
    say: Callable[[str], None] = lambda text: None,  # noqa: ARG005
    stopped: Callable[[], bool] = lambda: False,
) -> Trained:
    """Train a network into the folder `output`, or go on where an earlier run of the recipe was interrupted.

    `say` gets a line at every validation. `stopped` is asked after every step; when it says so, the state is saved.

    Raises: CancelledError when `stopped` said so; UnhealthyOutputError for NaN or Inf in a loss or a gradient; UsageError for
    photos that do not fit the recipe, or an output folder of another run; CheckpointError when the folder cannot be written,
    or the merged network is not the trained one.
    """
    with _threads(recipe.threads), alone(output):
        job = prepare(recipe)
        say(f"{len(job.photos)} photos to train on, {len(job.validation)} for validation, on {job.device}")
        if job.teacher:
            say(f"taught by {job.teacher} of {recipe.teacher}, PSNR-Y {job.teacher.psnr_y:.3f}")
        run = TrainingRun(job, output, say, stopped)
        while run.stage < len(recipe.stages):
            run.run_stage()
        return run.finish()


class TrainingRun:
    """A job on its way: `stage` counts from 0, `step` the steps of this stage that are done."""

    def __init__(self, job: TrainingJob, output: Path, say: Callable[[str], None], stopped: Callable[[], bool]) -> None:
        self.stage, self.step = 0, 0
        self._job, self._output, self._say, self._stopped = job, output, say, stopped
        self._identity = job.identity
        self._network, self._average = job.build(), job.build().eval()
        self._seconds, self._log, self._losses = 0.0, list[LogLine](), list[float]()
        self._adam: dict[str, object] = {}
        self._saved = 0
        state = load_state(output / STATE, self._identity)
        if state is not None:
            self._restore(state)
        elif job.recipe.start:
            self._start(Path(job.recipe.start))
        for network in (self._network, self._average):
            run_merged(network.to(job.device, memory_format=torch.channels_last))  # type: ignore[call-overload]

    @property
    def _done(self) -> int:
        """Steps done in all stages."""
        return sum(stage.steps for stage in self._job.recipe.stages[: self.stage]) + self.step

    def run_stage(self) -> None:
        """Run what is left of the current stage, and hand its averaged weights on to the next.

        Raises: CancelledError; UnhealthyOutputError.
        """
        job, stage = self._job, self._job.recipe.stages[self.stage]
        teacher = job.teacher.network if job.teacher else None
        loss = Loss(stage.losses, job.config.colors, job.recipe.seed, teacher).to(job.device)
        own, average = (
            objective(stage, network, job.architecture.value_range, loss) for network in (self._network, self._average)
        )
        optimization = Optimization(own, average, stage, half=job.device.type == "cuda")
        if self.step:
            optimization.restore(self._adam)
        else:
            self._average.load_state_dict(self._network.state_dict())
        with Ahead(job.crops(self.stage), self.step, stage.steps) as ahead:
            while self.step < stage.steps:
                self._run_step(optimization, loss, ahead)
        self._network.load_state_dict(self._average.state_dict())
        self.stage, self.step = self.stage + 1, 0
        if self.stage < len(job.recipe.stages):
            save_weights(self._output / STAGE.format(self.stage), {"params": self._network.state_dict()})

    def finish(self) -> Trained:
        """Merge, check and write the trained network.

        Raises: CheckpointError.
        """
        job, output = self._job, self._output
        average = job.build()
        average.load_state_dict(self._average.state_dict())
        sample = as_tensor(job.validation[0].lr[None], torch.device("cpu"))
        merged, difference = merged_state(average, job.config, job.architecture, sample)
        told = {TRAINED_AS: _untold(job)}
        save_weights(output / TRAINING_FORM, {"params": average.state_dict(), **told})
        save_weights(output / CHECKPOINT, {"params": merged, **told})
        last = self._log[-1]
        if last.psnr_y <= job.bicubic.psnr_y:
            self._say(
                f"warning: the trained network has {last.psnr_y:.2f} dB on the validation photos, plain bicubic upscaling has "
                f"{job.bicubic.psnr_y:.2f}; train for longer, or on other photos"
            )
        trained = Trained(
            checkpoint=output / CHECKPOINT,
            training_form=output / TRAINING_FORM,
            score=ValidationScore(last.psnr_y, last.ssim_y),
            bicubic=job.bicubic,
            steps=job.recipe.steps,
            seconds=self._seconds,
            merge_difference=difference,
        )
        write_whole(output / "training.json", _facts(trained, job))
        write_whole(output / "recipe.toml", as_toml(portable(job.recipe)).encode())
        return trained

    def _run_step(self, optimization: Optimization, loss: Loss, ahead: Ahead) -> None:
        recipe, stage = self._job.recipe, optimization.stage
        begun = perf_counter()
        self._losses.append(self._loss_of(optimization, loss, ahead.take()))
        self.step += 1
        self._seconds += perf_counter() - begun
        last, stopped = self.step == stage.steps, self._stopped()
        if last or self._done % recipe.validate_every == 0:
            self._validate(optimization, ahead)
        if last or stopped or self._done % recipe.save_every == 0:
            self._save(optimization)
        if stopped and self._done < recipe.steps:
            raise CancelledError(f"interrupted after step {self._done} of {recipe.steps}; the same command goes on from there")

    def _loss_of(self, optimization: Optimization, loss: Loss, batch: Batch) -> float:
        device = self._job.device
        lr, hr = as_tensor(batch.lr, device), as_tensor(batch.hr, device)
        sees_clean = self._job.recipe.teacher_sees == "clean" and batch.clean is not batch.lr and loss.teacher is not None
        taught = loss.taught(as_tensor(batch.clean, device) if sees_clean else lr)
        if taught is not None and batch.generated.any():  # Published networks know photographs alone.
            taught[batch.generated] = hr[batch.generated]
        try:
            return optimization.step(self.step, lr, hr, taught)
        except UnhealthyOutputError as exc:
            good = (
                f"the last good state, of step {self._saved}, is {self._output / STATE}"
                if self._saved
                else "nothing is saved yet"
            )
            raise UnhealthyOutputError(
                f"step {self._done + 1}, stage {self.stage + 1}: {exc}; {good}. Lower the learning rate, and train into "
                "another folder; `start` in the recipe takes a state, too"
            ) from exc

    def _validate(self, optimization: Optimization, ahead: Ahead) -> None:
        job, stage = self._job, optimization.stage
        score = validate(optimization.average.upscaled, job.validation, job.device)
        rate = learning_rate(stage, self.step - 1)
        loss = sum(self._losses) / len(self._losses)
        entry = LogLine(self._done, self.stage + 1, rate, loss, score.psnr_y, score.ssim_y, round(self._seconds, 1))
        self._log.append(entry)
        self._losses = []
        pace = self._seconds / self._done
        self._say(
            f"step {self._done}/{job.recipe.steps} stage {entry.stage} loss {loss:.5f} lr {rate:.2g} "
            f"PSNR-Y {score.psnr_y:.3f} (bicubic {job.bicubic.psnr_y:.3f}) SSIM-Y {score.ssim_y:.4f} "
            f"{1000 * pace:.1f} ms/step, {ahead.waited / self._seconds:.1%} of it waiting for photos, "
            f"{(job.recipe.steps - self._done) * pace / 60:.1f} min to go"
        )
        write_whole(self._output / "log.csv", as_csv(self._log))
        write_whole(self._output / "curve.png", as_png(self._log, title=job.recipe.name, bicubic=job.bicubic.psnr_y))

    def _save(self, optimization: Optimization) -> None:
        state = TrainingState(
            identity=self._identity,
            stage=self.stage,
            step=self.step,
            seconds=self._seconds,
            losses=self._losses,
            params=self._network.state_dict(),
            params_ema=self._average.state_dict(),
            optimizer=optimization.state(),
            log=tuple(self._log),
        )
        save_state(self._output / STATE, state)
        self._saved = self._done

    def _restore(self, state: TrainingState) -> None:
        self.stage, self.step, self._adam = state.stage, state.step, state.optimizer
        self._seconds, self._log, self._losses = state.seconds, list(state.log), list(state.losses)
        self._network.load_state_dict(state.params)
        self._average.load_state_dict(state.params_ema)
        self._saved = self._done
        self._say(f"going on after step {self._done} of {self._job.recipe.steps}")

    def _start(self, path: Path) -> None:
        start = warm_start(self._network, self._job.config, self._job.architecture, path)
        fresh = f"; random as before: {', '.join(start.fresh)}" if start.fresh else ""
        self._say(f"starting with {start.taken} tensors of {path}{fresh}")


@contextmanager
def _threads(number: int) -> Iterator[None]:
    """Let torch take that many threads, 0 for as many as it likes."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _untold(job: TrainingJob) -> dict[str, object]:
    """What the trained weights do not tell of their network."""
    configs = [asdict(config) for config in job.architecture.variants(job.config)]
    own = asdict(job.config)
    return {"value_range": job.architecture.value_range} | {
        name: value for name, value in own.items() if any(config[name] != value for config in configs)
    }


def _facts(trained: Trained, job: TrainingJob) -> bytes:
    """What anyone who trains the network again wants to compare."""
    facts = {
        "recipe": asdict(portable(job.recipe)),
        "config": asdict(job.config),
        "value_range": job.architecture.value_range,
        "identity": job.identity,
        "photos": len(job.photos),
        "validation": [photo.name for photo in job.validation],
        "teacher": job.teacher.facts if job.teacher else None,
        "score": asdict(trained.score),
        "bicubic": asdict(trained.bicubic),
        "steps": trained.steps,
        "seconds": round(trained.seconds, 1),
        "merge_difference": trained.merge_difference,
        "device": str(job.device),
        "torch": torch.__version__,
    }
    return (json.dumps(facts, indent=1, ensure_ascii=False) + "\n").encode()
