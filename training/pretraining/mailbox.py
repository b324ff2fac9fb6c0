"""What the ranks of a training report to its driver: an actor's class that imports nothing, so it starts at once."""


class Mailbox:
    """An actor between the driver and rank 0: the last row, and why training stopped if it did."""

    def __init__(self) -> None:
        self.last: dict[str, float] = {}
        self.reason: str | None = None

    def put_row(self, row: dict[str, float]) -> None:
        """Replace the last row."""
        self.last = row

    def last_row(self) -> dict[str, float]:
        """The last row; empty before the first."""
        return self.last

    def stop(self, reason: str) -> None:
        """Report what the user has to correct; the first reason is kept."""
        self.reason = self.reason or reason

    def stop_reason(self) -> str | None:
        """What the user has to correct, or None."""
        return self.reason
