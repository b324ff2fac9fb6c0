"""The pre-trainings of a benchmark or a sweep: named by the hash of their inputs, so that none is done twice."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from typing import NamedTuple

from curation.engine import resources
from curation.engine.accelerators import gpus
from curation.options import digest
from curation.store.directory import RunDirectory
from training.loader.subset import Subset
from training.pretraining.config import LengthConfig
from training.pretraining.loop import Plan
from training.pretraining.plan import plan_of
from training.pretraining.pretrain import pretrain
from training.pretraining.recipe import Recipe
from training.pretraining.weights import absolute_init


class Planned(NamedTuple):
    """A pre-training and how long it is."""

    recipe: Recipe
    plan: Plan


def pretrainings(
    run: RunDirectory, subset: Subset, recipe: Recipe, lengths: Sequence[LengthConfig], seeds: int
) -> Iterator[Planned]:
    """Yield every pre-training on a subset: each length and seed. ValueError for invalid ones.

    An output is named by the hash of the subset and of all settings that shape the weights.
    """
    for length in lengths:
        for seed in range(recipe.what.seed, recipe.what.seed + seeds):
            settings = replace(
                recipe,
                what=replace(recipe.what, subset=subset.path, seed=seed, init=absolute_init(recipe.what.init)),
                length=length,
                model=replace(recipe.model, seed=seed),
            )
            plan = plan_of(settings, subset)
            output = f"{run.root}/pretrain/{digest([subset.about['digest'], settings.shaping()])}"
            yield Planned(replace(settings, what=replace(settings.what, output=output)), plan)


def at_once(workers: int) -> int:
    """How many pre-trainings of `workers` ranks run at once: as GPUs allow, with one CPU per rank and one to decode."""
    return max(1, min(gpus() // workers, resources.count("CPU") // (workers + 1)))


def pretrain_all(planned: Sequence[Recipe], together: int) -> None:
    """Do the pre-trainings, `together` at once. If one fails, running ones finish and no other starts."""

    def do(number: int) -> None:
        settings = planned[number]
        what = f"{settings.what.subset}, seed {settings.what.seed}"
        print(f"pretrain {number + 1} of {len(planned)}: {what}", flush=True)
        pretrain_once(settings)

    if together == 1:  # in the main thread, where Ray Train handles an interruption
        for number in range(len(planned)):
            do(number)
        return
    with ThreadPoolExecutor(together) as pool:
        try:
            for done in as_completed([pool.submit(do, number) for number in range(len(planned))]):
                done.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def pretrain_once(settings: Recipe) -> None:
    """Pre-train unless that is finished, and delete the decoded frames."""
    output = RunDirectory(settings.what.output)
    if not (output.exists("encoder.safetensors") and output.exists("card.json")):
        pretrain(settings)
    delete_cache(output)


def delete_cache(output: RunDirectory) -> None:
    """Delete the decoded frames of a pre-training."""
    if output.exists("cache"):
        output.delete_folder("cache")
