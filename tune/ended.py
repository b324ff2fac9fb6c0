"""Trials that ended without a record: why they failed, or what halving was told of them. It knows no engine."""

from typing import Any

from curation.store import RunDirectory

FILE = "ended.json"


class Ended:
    """What is kept of such trials below an output, by the path that their record would have.

    An entry has `hours` (of its devices), and `reason`, or `told`: the last unit, miou, normdel and updates.
    """

    def __init__(self, output: RunDirectory) -> None:
        self.output = output
        self.known: dict[str, dict[str, Any]] = output.read_json(FILE) if output.exists(FILE) else {}

    def keep(self, path: str, entry: dict[str, Any]) -> None:
        """Keep an entry; hours of earlier attempts add up."""
        self.known[path] = entry | {"hours": entry["hours"] + self.of(path).get("hours", 0.0)}
        self.output.write_json(FILE, self.known)

    def of(self, path: str) -> dict[str, Any]:
        """The entry of a trial, empty where there is none."""
        return self.known.get(path, {})
