"""Options of a selection that are given and would have no effect: they are refused, with the reason."""

from typing import Any

from curation.options import require

DEFAULT_NAME = "curated"  # of a subset
THRESHOLDS = ("epsilon", "d", "keep", "rule", "grid", "grid_epsilon", "grid_d")
OMIT_EITHER = "leave it out, or leave out the grid's options"


def check_selection(config: Any) -> None:
    """ValueError for an option of a SelectConfig that is given and would have no effect, saying why."""
    for name, reason in idle(config).items():
        value = getattr(config, name)
        given = value is not None and value is not False and value != ()
        require(not given, f"{name} does not apply: {reason}")
    require(
        not config.grid or config.name == DEFAULT_NAME,
        f"name does not apply: --grid selects nothing; {OMIT_EITHER}",
    )
    gridded = bool(config.grid or config.grid_epsilon or config.grid_d)
    require(
        not gridded or config.rule != "greedy",
        "rule greedy does not apply: it needs a pass for each (epsilon, d), which no grid has; leave it out",
    )


def idle(config: Any) -> dict[str, str]:
    """Return the options that have no effect with the others that are given, and why."""
    if not config.compares:
        reason = f"method {config.method} compares no frames and has no thresholds; give --budget alone"
        return dict.fromkeys(THRESHOLDS, reason)
    gone: dict[str, str] = {}
    if config.grid:
        gone |= dict.fromkeys(("d", "budget"), f"--grid selects nothing; {OMIT_EITHER}")
    elif config.grid_epsilon or config.grid_d:
        gone |= dict.fromkeys(("d", "budget"), f"a grid is for choosing thresholds; {OMIT_EITHER}")
    if config.grid_epsilon:
        gone["epsilon"] = "the grid has the values of --grid-epsilon; give it as one of them"
    if config.method == "semdedup":
        gone |= dict.fromkeys(("epsilon", "grid_epsilon"), "method semdedup has no epsilon; leave it out")
        gone["rule"] = "method semdedup compares with every earlier frame; leave it out"
    return gone
