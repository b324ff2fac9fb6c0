"""Where the demonstration works."""

from dataclasses import dataclass

from curation.options import option


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """Where the demonstration works, and its seed. Its other settings are fixed, so that its results can be stated."""

    output: str = option("A local folder for the phantom and the runs; created if missing.", "runs/demo")
    seed: int = option("Seed of the drawing, the encoder and the clusters.", 0)
