"""The command line of tune: its overview, that all configs share one set of flags, and what is refused at once."""

from typing import Any

import pytest

from curation.cli import Command, dispatch
from tune.__main__ import main, sweep_configs
from tune.config import HalvingConfig, Question, SweepConfig, pretrain_config
from tune.space import SpaceConfig


def test_the_overview_and_a_misspelt_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "sweep     Search the thresholds" in capsys.readouterr().out
    assert main(["swep"]) == 2
    assert "did you mean sweep?" in capsys.readouterr().err


def test_the_flags_of_a_trial_are_no_flags(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "--subset", "x"]) == 2
    assert "there is no flag --subset" in capsys.readouterr().err
    recipe = next(config for config in sweep_configs([]) if config.__name__ == "RecipeFlags")
    assert pretrain_config(recipe(seed=4)).seed == 4


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--d=0.9", "--budget=0.1"], "give values of d or of budget, not both"),
        (["--d=0.9", "--question=non-inferior", "--baseline=none"], "needs the full pool"),
        (["--search=optuna", "--d=0.9", "--halving=3"], "use it with --search grid, paper or random"),
        (["--d=0.9"], "nothing is not a folder"),
        (["--d=0.9", "--halving=1"], "halving is 1"),
    ],
)
def test_what_cannot_be_is_refused_at_once(flags: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--run-dir=RUN", "--output=OUT", "--dataset=generic=nothing", "--steps=1", *flags]
    assert main(["sweep", *given]) == 2
    assert told in capsys.readouterr().err


def test_an_interrupted_command_says_that_it_resumes(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    command = Command("Wait.", lambda _: (), interrupted)
    assert dispatch("tune", {"wait": command}, ["wait"]) == 130
    assert capsys.readouterr().err == "stopped; rerun the same command, and it resumes\n"


def test_rungs_by_hand() -> None:
    assert HalvingConfig(halving=3, rung_count=3).rungs == (1, 3, 9)
    assert (HalvingConfig().rungs, HalvingConfig().units) == ((1,), 1)


@pytest.mark.parametrize(
    ("config", "values"),
    [
        (SweepConfig, {"run_dir": "R", "max_trials": 0}),
        (SweepConfig, {"run_dir": "R", "max_gpu_hours": 0.0}),
        (SweepConfig, {"run_dir": "R", "gpus_per_trial": 0}),
        (SweepConfig, {"run_dir": "R", "max_concurrent": -1}),
        (Question, {"alpha": -1.0}),
        (Question, {"margin": 0.0, "question": "non-inferior"}),
        (Question, {"confidence": 1.0, "question": "non-inferior"}),
        (HalvingConfig, {"rung_count": 1, "halving": 2}),
    ],
)
def test_values_that_cannot_be(config: type, values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(name for name in values if name != "run_dir")):
        config(**values)


@pytest.mark.parametrize(
    ("config", "values", "reason"),
    [
        (SpaceConfig, {"d": (0.9,), "samples": 5}, "samples does not apply: --search grid"),
        (SpaceConfig, {"search": "paper", "samples": 5}, "samples does not apply: --search paper"),
        (SpaceConfig, {"select": ("semdedup",), "d": (0.9,), "epsilon": (0.5,)}, "epsilon does not apply"),
        (SpaceConfig, {"select": ("semdedup", "random"), "budget": (0.1,), "rule": ("any",)}, "rule does not apply"),
        (SpaceConfig, {"select": ("random",), "budget": (0.1,), "keep": ("nearest",)}, "keep does not apply"),
        (Question, {"margin": 0.01}, "margin does not apply: it is for --question non-inferior"),
        (Question, {"question": "pareto", "confidence": 0.9}, "confidence does not apply"),
        (HalvingConfig, {"rung_count": 2}, "rung_count and rung_probe do not apply"),
        (HalvingConfig, {"rung_probe": "knn"}, "rung_count and rung_probe do not apply"),
    ],
)
def test_options_without_effect_are_refused(config: type, values: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        config(**values)
