"""Which steps of a run are done: their records in run.json, and the markers that list what they wrote.

A step is done when its folder has a marker. It knows neither what steps compute nor which engine runs them.
"""

from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from curation.options import digest, hashed_fields
from curation.store import File, RunDirectory

SUCCESS = "_SUCCESS.json"


@dataclass(frozen=True)
class Step:
    """One step's place in a run: the folder it fills, its config and the hashes of what it reads."""

    run: RunDirectory
    name: str
    folder: str
    config: Any
    inputs: dict[str, str]

    def find(self) -> dict[str, Any] | None:
        """The step's marker when it is done already, else None.

        ValueError when its folder holds work done with another config or from other inputs, naming each difference
        and what to do.
        """
        found = read_record(self.run)["steps"].get(self.folder)
        if found is not None and self.run.holds_files(self.folder):
            self._compare(found)
        marker = f"{self.folder}/{SUCCESS}"
        return self.run.read_json(marker) if self.run.exists(marker) else None

    def begin(self) -> None:
        """Record the step's config and inputs in run.json and clear what a killed call left half-written.

        To be called when all that can be checked beforehand is checked, so that a refused call leaves no trace.
        """
        record = read_record(self.run)
        config = hashed_fields(self.config)
        record["steps"][self.folder] = {"config": config, "inputs": self.inputs, "config_hash": digest(config)}
        self.run.write_json("run.json", record)
        self.run.clear_temporary(self.folder)

    def _compare(self, found: dict[str, Any]) -> None:
        wanted = {"config": hashed_fields(self.config), "inputs": self.inputs}
        changes = [
            f"{name} was {found[part].get(name)!r}, now {wanted[part].get(name)!r}"
            for part in ("config", "inputs")
            for name in sorted(found[part].keys() | wanted[part].keys())
            if found[part].get(name) != wanted[part].get(name)
        ]
        if changes:
            raise ValueError(
                f"{self.name} was run in {self.run.uri} with other settings: {'; '.join(changes)}. Use the old "
                f"settings or another --run-dir; or delete {self.folder}/ there, and what was made from it."
            )

    def finish(self, counts: dict[str, Any], files: list[File]) -> dict[str, Any]:
        """Write the marker: counts and every file with its rows, size and checksum. Returns it."""
        listed = [vars(file) for file in sorted(files, key=lambda file: file.path)]
        marker = {
            "step": self.name,
            **counts,
            "config_hash": digest(hashed_fields(self.config)),
            "inputs": self.inputs,
            "output_hash": digest([[file["path"], file["sha256"]] for file in listed]),
            "files": listed,
        }
        self.run.write_json(f"{self.folder}/{SUCCESS}", marker)
        return marker


def read_record(run: RunDirectory) -> dict[str, Any]:
    """run.json: the versions that made the run, and each step's config and inputs; new where there is none."""
    if run.exists("run.json"):
        record: dict[str, Any] = run.read_json("run.json")
        return record
    packages = ("endosieve", "numpy", "pillow", "pyarrow", "ray", "timm", "torch")
    return {"versions": {name: version(name) for name in packages}, "steps": {}}


def marker_of(run: RunDirectory, folder: str, made_by: str) -> dict[str, Any]:
    """The marker of a finished step. ValueError, naming the command to run first, where it is not done."""
    path = f"{folder}/{SUCCESS}"
    if not run.exists(path):
        raise ValueError(f"{run.uri}/{folder} is missing or unfinished; run `python -m curation {made_by}` first")
    marker: dict[str, Any] = run.read_json(path)
    return marker


def check_rejected(step: str, rejected: int, rows: int, limit: float, *, early: bool = False) -> None:
    """ValueError when more than the share `limit` of `rows` was rejected; `early` where not all were read yet."""
    if rejected > limit * rows:
        found = f"{rejected} of {rows} frames ({rejected / rows:.1%})"
        stopped = f"{step} stopped early: it rejected {found} so far" if early else f"{step} rejected {found}"
        raise ValueError(
            f"{stopped}, more than max_rejected "
            f"{limit:.1%}; the reasons are in rejected/. Allow more with --max-rejected, and it resumes; or "
            "mend or exclude those files and begin another --run-dir"
        )
