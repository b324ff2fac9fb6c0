"""What a training cost, in FLOPs, device-hours and bytes, and what it saved against the full pool.

FLOPs are counted for the layers' matrix products and convolutions, two for each multiply-add, forward and backward: the
same on every chip, whichever kernels it computes them with.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from training.methods.method import Method

SAMPLE = 2  # images that FLOPs are counted on


def flops_per_image(method: Method, side: int) -> float:
    """FLOPs of one forward and backward pass, per image. Nothing is computed: tensors are shapes only.

    Attention is counted as the products it consists of: a fused kernel, which a chip may or may not have, computes its
    weights twice, and torch counts it only on some chips.
    """
    pixels = torch.zeros(SAMPLE, side, side, 3, dtype=torch.uint8)
    views = method.views(pixels, torch.Generator().manual_seed(0))
    plain = sdpa_kernel(SDPBackend.MATH)
    with plain, FakeTensorMode(allow_non_fake_inputs=True) as fake, FlopCounterMode(display=False) as counter:
        loss = method.loss(method.module, tuple(fake.from_tensor(view) for view in views))
        torch.autograd.backward(loss)
    method.module.zero_grad(set_to_none=True)
    return float(counter.get_total_flops()) / SAMPLE


@dataclass(frozen=True)
class Cost:
    """The counts of a finished training."""

    updates: int
    images_seen: int
    frames: int  # of the subset
    flops_per_image: float
    device_seconds: float  # of updates, times ranks
    encoded_bytes: int  # of the subset
    decoded_bytes: int  # kept in the cache; 0 where frames were streamed

    @property
    def epochs(self) -> float:
        """Passes over the subset."""
        return self.images_seen / self.frames

    def card(self) -> dict[str, Any]:
        """The cost for the model card. Encoded bytes are read once into a cache, else every epoch."""
        passes = 1.0 if self.decoded_bytes else self.epochs
        return {
            "updates": self.updates,
            "images_seen": self.images_seen,
            "epochs": self.epochs,
            "flops": self.flops_per_image * self.images_seen,
            "flops_per_image": self.flops_per_image,
            "device_hours": self.device_seconds / 3600,
            "bytes_read": round(self.encoded_bytes * passes),
            "decoded_bytes_kept": self.decoded_bytes,
        }

    def saved(self, pool: int, pool_bytes: int, reference_epochs: float) -> dict[str, Any]:
        """Shares saved against training on all `pool` frames for `reference_epochs` epochs.

        Compute is images seen (every image costs the same FLOPs): nothing is saved by a schedule of equal compute,
        and 1 - ratio by one of equal epochs. Storage is the encoded bytes of the kept frames.
        """
        full = pool * reference_epochs
        return {
            "reference_epochs": reference_epochs,
            "images_seen": full,
            "flops": full * self.flops_per_image,
            "device_hours": self.device_seconds / 3600 * full / self.images_seen,
            "bytes": pool_bytes,
            "compute_saved": 1 - self.images_seen / full,
            "storage_saved": 1 - self.encoded_bytes / pool_bytes,
        }
