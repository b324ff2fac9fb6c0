"""The config of `status`."""

from dataclasses import dataclass

from curation.options import run_dir_option


@dataclass(frozen=True, kw_only=True)
class StatusConfig:
    """Which run is looked at."""

    run_dir: str = run_dir_option()
