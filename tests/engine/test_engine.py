"""What a driver's actors leave behind in Ray, and how it is taken back."""

import ray
from ray.util import remove_placement_group
from ray.util.placement_group import placement_group

from tune import placement


class Holder:
    """Holds a CPU in a placement group, as Ray Train's controller does."""

    def hold(self) -> None:
        """Take the CPU."""
        ray.get(placement_group([{"CPU": 1}]).ready())


def test_what_a_killed_actor_held_is_free_again(local_ray: None) -> None:
    own = placement_group([{"CPU": 0.5}])
    ray.get(own.ready())
    try:
        known = placement.placement_groups()
        assert own.id.hex() in known
        holder = ray.remote(Holder).options(num_cpus=0).remote()
        ray.get(holder.hold.remote())
        ray.kill(holder)
        assert len(placement.placement_groups() - known) == 1
        placement.free_placement_groups(known)
        assert placement.placement_groups() == known
    finally:
        remove_placement_group(own)
