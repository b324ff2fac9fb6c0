"""Removes placement groups that a killed training leaves behind."""

import time

import ray
from ray.util import placement_group_table, remove_placement_group
from ray.util.placement_group import PlacementGroup

QUIET_S = 5.0


def placement_groups() -> set[str]:
    """IDs, in hex, of the placement groups of this driver and its actors that hold or wait for resources."""
    job = ray.get_runtime_context().get_job_id()  # every ID of a placement group ends with its job's
    table = placement_group_table()
    return {name for name, group in table.items() if name.endswith(job) and group["state"] != "REMOVED"}


def free_placement_groups(known: set[str]) -> None:
    """Remove this driver's placement groups but the `known` ones (IDs), until none appears for QUIET_S seconds.

    Ray keeps those of a killed actor until its job is over. Ray Train's own cleaner needs Ray's dashboard, and misses
    trainings that are still starting. Controllers of killed trainings live on for seconds, and request new ones.
    """
    last = time.monotonic()
    while time.monotonic() - last < QUIET_S:
        for name in placement_groups() - known:
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(name))))
            last = time.monotonic()
        time.sleep(0.2)
