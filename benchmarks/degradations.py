"""What the crops of a recipe cost beside its training step, on one core each, and how long steps wait for them.

python benchmarks/degradations.py RECIPE HR [HR ...] [--rounds 5] [--steps 40]

Costs are seconds of the processor, the least of all rounds; other work on the machine makes them longer, too, but far less than
the clock, by which the wait is.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch

from sr_deploy.training import read_recipe
from sr_deploy.training.crops import Ahead, Batch
from sr_deploy.training.job import TrainingJob, prepare
from sr_deploy.training.losses import Loss
from sr_deploy.training.merging import run_merged
from sr_deploy.training.objectives import objective
from sr_deploy.training.optimization import Optimization
from sr_deploy.training.validation import as_tensor

CPU = torch.device("cpu")
REPEATS = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe")
    parser.add_argument("hr", nargs="+")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=40)
    options = parser.parse_args()
    torch.set_num_threads(1)
    job = prepare(read_recipe(options.recipe, hr=tuple(options.hr), device="cpu", hold_out=1))
    crops, run = job.crops(0), stepper(job)
    batches = [crops(step) for step in range(REPEATS)]
    run(0, batches[0])
    making, stepping = [], []
    for _ in range(options.rounds):
        making.append(seconds_of(lambda index: crops(index)))
        stepping.append(seconds_of(lambda index: run(index, batches[index])))
    batch, step = min(making), min(stepping)
    began = time.perf_counter()
    with Ahead(crops, 0, options.steps) as ahead:
        for index in range(options.steps):
            run(index, ahead.take())
        waited = ahead.waited / (time.perf_counter() - began)
    each = batch / job.recipe.stages[0].batch
    print(
        f"{job.recipe.name}: {1e3 * each:.2f} ms a crop, {1 / each:.0f} crops a second and core; a batch {1e3 * batch:.1f} ms, "
        f"a step {1e3 * step:.1f} ms, {batch / step:.2f} of it; steps waited {waited:.1%} of the time"
    )


def stepper(job: TrainingJob) -> Callable[[int, Batch], object]:
    """A function that runs a step of the first stage on a batch."""
    stage = job.recipe.stages[0]
    loss = Loss(stage.losses, job.config.colors, job.recipe.seed, job.teacher.network if job.teacher else None)
    networks = [job.build().to(memory_format=torch.channels_last) for _ in range(2)]  # type: ignore[call-overload]
    for network in networks:
        run_merged(network)
    own, average = (objective(stage, network, job.architecture.value_range, loss) for network in networks)
    optimization = Optimization(own, average, stage, half=False)

    def run(index: int, batch: Batch) -> object:
        lr, hr, clean = (as_tensor(images, CPU) for images in batch[:3])
        return optimization.step(index, lr, hr, loss.taught(clean))

    return run


def seconds_of(work: Callable[[int], object]) -> float:
    """Of the processor, for one of a few calls."""
    began = time.thread_time()
    for index in range(REPEATS):
        work(index)
    return (time.thread_time() - began) / REPEATS


if __name__ == "__main__":
    main()
