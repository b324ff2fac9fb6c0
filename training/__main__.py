"""The command line: python -m training COMMAND."""

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from curation import submission
from curation.cli import Command, Configs, dispatch
from curation.settings import flag_value
from curation.sources import pools
from training.methods.config import METHODS


def lazily(*paths: str) -> Callable[[Sequence[str]], Configs]:
    """Configs by MODULE.NAME in this package, imported when needed: PyTorch and Ray take seconds."""

    def load(_: Sequence[str]) -> Configs:
        return tuple(part(path) for path in paths)

    return load


def part(path: str) -> Any:
    """The object MODULE.NAME in this package."""
    module, _, name = path.rpartition(".")
    return getattr(import_module(f"training.{module}"), name)


def recipe_configs(arguments: Sequence[str]) -> Configs:
    """The configs of pre-training and of the method that the flags or the YAML file name."""
    method = METHODS.get(flag_value(arguments, "method") or "mae", METHODS["mae"])  # PretrainConfig rejects others
    general = ("PretrainConfig", "ComputeConfig", "RecordConfig", "LengthConfig", "OptimiserConfig")
    return (
        *(part(f"pretraining.config.{name}") for name in general),
        method.load("config"),
        method.load("augmentation"),
    )


def benchmark_configs(arguments: Sequence[str]) -> Configs:
    """The configs of the benchmark, of evaluation, pre-training and fine-tuning."""
    own = lazily("evaluation.config.BenchmarkConfig", "evaluation.config.EvaluateConfig")(arguments)
    return (*own, *recipe_configs(arguments), part("evaluation.config.FinetuneFlags"))


def pretrain(*configs: Any) -> None:
    """Pre-train, and print the loss."""
    card = part("pretraining.pretrain.pretrain")(part("pretraining.recipe.Recipe")(*configs))
    print(f"loss {card['loss']:.4f} after {card['cost']['images_seen']} images")


def evaluate(*configs: Any) -> None:
    """Fine-tune and test; results are printed there."""
    part("evaluation.evaluate.evaluate")(*configs)


def benchmark(config: Any, evaluation: Any, *others: Any) -> None:
    """Run the benchmark; results are printed there."""
    *recipe, flags = others
    settings, finetune = part("pretraining.recipe.Recipe")(*recipe), part("evaluation.config.finetune_of")(flags)
    part("evaluation.benchmark.benchmark")(config, evaluation, settings, finetune)


def datasets() -> None:
    """Print the known sets and pools."""
    print(part("datasets.folders.catalogue_table")(), pools.pools_table(), sep="\n\n")


COMMANDS = {
    "pretrain": Command(
        "Train an encoder on exactly the frames that a subset keeps (MAE or SimCLR).",
        recipe_configs,
        pretrain,
        computes=True,
    ),
    "evaluate": Command(
        "Fine-tune encoders for segmentation, test and compare them.",
        lazily(
            *(f"evaluation.config.{name}" for name in ("EncoderConfig", "EvaluateConfig")),
            "segmentation.config.FinetuneConfig",
        ),
        evaluate,
        computes=True,
    ),
    "benchmark": Command(
        "Pre-train on several subsets, fine-tune, and write the tables and figures that compare them.",
        benchmark_configs,
        benchmark,
        computes=True,
    ),
    "normdel": Command(
        "Compute NormDEL from an mIoU and a retention ratio.",
        lazily("metrics.normdel.NormdelConfig"),
        lambda config: print(part("metrics.normdel.normdel_command")(config)),
    ),
    "datasets": Command(
        "List the segmentation sets and the pools for pre-training that are known by name.", lazily(), datasets
    ),
}


COMMANDS |= submission.commands("training", lambda: COMMANDS)


def main(arguments: Sequence[str]) -> int:
    """Run one command; returns the exit code: 0, or 2 for what the user can correct."""
    return dispatch("training", COMMANDS, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
