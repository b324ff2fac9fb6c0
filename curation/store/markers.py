"""Which steps of a run are done: their records in run.json, and the markers that list what they wrote.

A step is done when its folder has a marker. It is independent of what steps compute and of Ray.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from curation.console import StepSummary
from curation.options import changes, digest, hashed_fields
from curation.store import chain
from curation.store.directory import SUCCESS, File, IntegrityError, Listed, RunDirectory

_NOTHING: Mapping[str, Any] = {}


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
        and every folder to delete: IntegrityError where what it was made from has changed, or is unknown.
        """
        marker = chain.read_marker(self.run, self.folder)
        if chain.holds(self.run, self.folder):
            self._compare(chain.recorded_hash(self.run, self.folder), marker)
        return marker

    def begin(self) -> None:
        """Record the step's config and inputs in run.json and clear what a killed call left half-written.

        To be called after all checks that need no work, so that a refused call leaves no trace.
        """
        record = read_record(self.run)
        config = hashed_fields(self.config)
        record["steps"][self.folder] = {"config": config, "inputs": self.inputs, "config_hash": digest(config)}
        self.run.write_json("run.json", record)
        self.run.clear_temporary(self.folder)

    def _compare(self, found: dict[str, Any] | None, marker: dict[str, Any] | None) -> None:
        expected = {"config": hashed_fields(self.config), "inputs": self.inputs}
        if found is None:  # run.json was lost
            if marker is None or marker["config_hash"] != digest(expected["config"]):
                raise IntegrityError(
                    f"run.json in {self.run.uri} does not say with which settings {self.folder}/ was made: put it "
                    f"back, or {self._deletion()}"
                )
            found = expected | {"inputs": marker["inputs"]}
        above = [name for name in chain.STEP_FOLDERS if found["inputs"].get(name) != self.inputs.get(name)]
        other = changes(found["config"], expected["config"])
        other += changes(*({k: v for k, v in part["inputs"].items() if k not in above} for part in (found, expected)))
        if other:
            raise ValueError(
                f"{self.name} was run in {self.run.uri} with other settings: {'; '.join(other)}. Use the old "
                f"settings or another --run-dir; or {self._deletion()}"
            )
        if above:
            made = f"{self.folder}/ was made from another {above[0]}/ than is there now"
            raise IntegrityError(f"{made}: {self._deletion()}, and rerun the same command")

    def _deletion(self) -> str:
        return chain.deletion(self.run, chain.descendants(self.run, self.folder))

    def finish(self, summary: StepSummary, files: list[File], more: Mapping[str, Any] = _NOTHING) -> dict[str, Any]:
        """Write the marker: the summary, `more`, and every file with its rows, size and checksum. Returns it."""
        listed = [vars(file) for file in sorted(files, key=lambda file: file.path)]
        marker = {
            "step": self.name,
            **vars(summary),
            **more,
            "config_hash": digest(hashed_fields(self.config)),
            "inputs": self.inputs,
            "made_from": chain.made_from(self.run, self.folder, self.inputs),
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
    """The marker of a finished step, its files' paths Listed, so that RunDirectory.read_table compares what it reads.

    ValueError, naming the command to run first, where the step is not done. IntegrityError, naming every folder to
    delete, where what it made does not fit what is there now: all that it descends from is compared.
    """
    marker = chain.read_marker(run, folder)
    if marker is None:
        raise ValueError(f"{run.uri}/{folder} is missing or unfinished; run `python -m curation {made_by}` first")
    chain.check_inputs(run, folder)
    return marker | {"files": [entry | {"path": Listed(File(**entry))} for entry in marker["files"]]}


def check_rejected(step: str, rejected: int, rows: int, limit: float, *, early: bool = False) -> None:
    """ValueError when more than the share `limit` of `rows` was rejected; `early` where not all were read yet."""
    if rejected > limit * rows:
        found = f"{rejected} of {rows} frames ({rejected / rows:.1%})"
        stopped = f"{step} stopped early: it rejected {found} so far" if early else f"{step} rejected {found}"
        raise ValueError(
            f"{stopped}, more than max_rejected "
            f"{limit:.1%}; the reasons are in rejected/. Allow more with --max-rejected, and it resumes; or "
            "repair or exclude those files and use another --run-dir"
        )
