"""The length and precision of a pre-training on the chips of the cluster."""

from importlib.util import find_spec

from curation.engine import resources
from curation.engine.chips import resolve_precision
from curation.options import require
from training.loader.subset import Subset
from training.methods.config import METHODS
from training.pretraining.loop import Plan
from training.pretraining.recipe import Recipe
from training.pretraining.schedule import equal_compute_epochs, total_steps


def plan_of(settings: Recipe, subset: Subset) -> Plan:
    """The plan of a pre-training; ValueError for invalid settings, or a logger that is not installed."""
    for name in settings.record.logger:
        package = {"mlflow": "mlflow-skinny"}.get(name, name)
        require(find_spec(name) is not None, f"--logger {name} needs a package: pip install {package}")
    length, frames = settings.length, len(subset.table)
    epochs = length.epochs
    if length.equal_compute_to is not None:
        epochs = equal_compute_epochs(length.equal_compute_to, frames / subset.about["pool"])
    total = total_steps(frames, length.batch_size, epochs=epochs, steps=length.steps, images_seen=length.images_seen)
    precision = resolve_precision(settings.compute.precision, *resources.chips())
    plan = Plan(total, settings.what.seed, length, settings.optimiser, precision)
    even = METHODS[settings.what.method].load("method").compares_images
    for ranks in range(settings.compute.min_workers or settings.compute.workers, settings.compute.workers + 1):
        plan.order(frames).check(ranks, even=even)
    return plan
