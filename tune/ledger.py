"""Trials that ended without a record: why they failed, or what they told before halving ended them. It knows no engine.

Notes are written as trials end, so that a killed sweep keeps them.
"""

from typing import Any

from curation.store.directory import RunDirectory

FILE = "ended.json"
TOLD = ("unit", "miou", "standard_error", "updates")  # what is measured of a trial at a rung, and at the end


class Ended:
    """What is kept of such trials below an output, by the path that their record would have.

    An entry has the `reason` of a failure; or, of a trial that halving ended, `halts` (TOLD at each rung), and
    `halving` and `read`: what it was judged by.
    """

    def __init__(self, output: RunDirectory) -> None:
        self.output = output
        self.known: dict[str, dict[str, Any]] = output.read_json(FILE) if output.exists(FILE) else {}

    def keep(self, path: str, entry: dict[str, Any]) -> None:
        """Keep an entry in the place of an earlier one."""
        self.known[path] = entry
        self.output.write_json(FILE, self.known)

    def drop(self, path: str) -> None:
        """Forget the entry of a trial that has finished since."""
        if self.known.pop(path, None) is not None:
            self.output.write_json(FILE, self.known)

    def of(self, path: str) -> dict[str, Any]:
        """The entry of a trial, empty where there is none."""
        return self.known.get(path, {})
