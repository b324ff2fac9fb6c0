"""What limited a step that streams frames through decoders to encoders, from where its time went. It uses no Ray."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

BUSY = 0.8  # share of their time from which encoders are the limit (OURS)
WRITING = 0.5  # share of the step's time from which its driver is (OURS)


@dataclass
class Spent:
    """Seconds, summed over all workers but for `write_s`, which is the driver's."""

    read_s: float = 0.0  # files, in decoders
    decode_s: float = 0.0
    encode_s: float = 0.0
    wait_s: float = 0.0  # of encoders for frames, once they had the first
    write_s: float = 0.0

    def add(self, row: Mapping[str, Any]) -> None:
        """Add what a chunk took, by the names of these fields."""
        for name in ("read_s", "decode_s", "encode_s", "wait_s"):
            setattr(self, name, getattr(self, name) + row[name])

    @property
    def busy(self) -> float:
        """Share of their time in which encoders computed; 1 where they had nothing to do."""
        whole = self.encode_s + self.wait_s
        return self.encode_s / whole if whole else 1.0

    def verdict(self, wall_s: float, device: str) -> str:
        """What limited a step of `wall_s` seconds, as a clause. `device`: what the encoders compute on."""
        found = f"encoders computed for {self.busy:.0%} of their time"
        if wall_s and self.write_s / wall_s > WRITING:
            return f"limited by the driver, which wrote for {self.write_s / wall_s:.0%} of the time; {found}"
        if self.busy >= BUSY:
            return f"limited by the encoders ({device}): {found}"
        reading = self.read_s / (self.read_s + self.decode_s or 1.0)
        what = "storage" if reading > 0.5 else "decoding"
        return f"limited by {what}: {found}, decoders read files for {reading:.0%} of theirs"
