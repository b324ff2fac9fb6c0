"""The command line: python -m training COMMAND."""

import sys
from collections.abc import Sequence
from importlib import import_module

from curation import cli
from training.config import ComputeConfig, LengthConfig, OptimiserConfig, PretrainConfig, RecordConfig

USAGE = """usage: python -m training pretrain [--help] [--config FILE.yaml] [flags]

  pretrain  Train an encoder on exactly the frames that a subset keeps (MAE or SimCLR)."""


def main(arguments: Sequence[str]) -> int:
    """Run one command; returns the exit code: 0, or 2 for what the user can mend."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    if arguments[0] != "pretrain":
        print(f"error: no command {arguments[0]!r}\n\n{USAGE}", file=sys.stderr)
        return 2
    try:
        kind = import_module("training.methods").METHODS[method_in(arguments)]
        general = (PretrainConfig, ComputeConfig, RecordConfig, LengthConfig, OptimiserConfig)
        configs = (*general, kind.config, kind.augmentation)
        about = "Train an encoder on exactly the frames that a subset keeps."
        settings = import_module("training.rank").Settings(
            *cli.parse("training pretrain", about, configs, arguments[1:])
        )
        card = import_module("training.pretrain").pretrain(settings)
        print(f"loss {card['loss']:.4f} after {card['cost']['images_seen']} images")
    except Exception as error:
        return cli.complain(error)
    return 0


def method_in(arguments: Sequence[str]) -> str:
    """The method that the flags name, since it decides which flags there are."""
    for place, flag in enumerate(arguments):
        name, equals, value = flag.partition("=")
        if name == "--method":
            chosen = value if equals else "".join(arguments[place + 1 : place + 2])
            return chosen if chosen == "simclr" else "mae"
    return "mae"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
