"""What the ranks of a training tell its driver: an actor's class that imports nothing, so it starts at once."""


class Mailbox:
    """An actor between the driver and rank 0: the last row, and why training stopped if it did."""

    def __init__(self) -> None:
        self.last: dict[str, float] = {}
        self.reason: str | None = None

    def show(self, row: dict[str, float]) -> None:
        """Put a row up."""
        self.last = row

    def row(self) -> dict[str, float]:
        """The last row; empty before the first."""
        return self.last

    def stop(self, reason: str) -> None:
        """Say what the user has to mend; the first word stands."""
        self.reason = self.reason or reason

    def stopped(self) -> str | None:
        """What the user has to mend, or None."""
        return self.reason
