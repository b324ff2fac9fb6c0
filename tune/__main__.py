"""The command line: python -m tune COMMAND."""

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from curation import submission
from curation.cli import Command, Configs, dispatch
from curation.store.directory import RunDirectory
from training.__main__ import recipe_configs


def sweep_configs(arguments: Sequence[str]) -> Configs:
    """The configs of the sweep, of evaluation, of pre-training but for what differs by trial, and of fine-tuning."""
    own, space = import_module("tune.config"), import_module("tune.space")
    evaluation = import_module("training.evaluation.config")
    _, *recipe = recipe_configs(arguments)
    of_sweep = (own.SweepConfig, space.SpaceConfig, own.Question, own.HalvingConfig)
    return (*of_sweep, evaluation.EvaluateConfig, own.RecipeFlags, *recipe, evaluation.FinetuneFlags)


def sweep(*configs: Any) -> None:
    """Run a sweep, which prints its results."""
    own, module = import_module("tune.config"), import_module("tune.sweep")
    config, space, question, halving, evaluation, what, *recipe, flags = configs
    settings = import_module("training.pretraining.recipe").Recipe(own.pretrain_config(what), *recipe)
    finetune = import_module("training.evaluation.config").finetune_of(flags)
    module.sweep(
        import_module("tune.settings").SweepSettings(config, space, question, halving, evaluation, settings, finetune)
    )


def report(config: Any) -> None:
    """Write the report of a sweep again."""
    output = RunDirectory(config.output)
    with output.lock():
        import_module("tune.report").conclude(output)


COMMANDS = {
    "sweep": Command("Search the thresholds whose subset is worth training on.", sweep_configs, sweep, computes=True),
    "report": Command(
        "Write the report of a sweep again.", lambda _: (import_module("tune.config").ReportConfig,), report
    ),
}


COMMANDS |= submission.commands("tune", lambda: COMMANDS)


def main(arguments: Sequence[str]) -> int:
    """Run one command and return the exit code: 0, or 2 for an error that the user can fix."""
    return dispatch("tune", COMMANDS, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
