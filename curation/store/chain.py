"""Whether what is in a run was made from what is there now: frames, embeddings, clusters, scores, subsets.

Every marker holds the hashes of what its step read (`inputs`) and of what it wrote (`output_hash`), and `made_from`:
the output hash of everything that it descends from, by folder. Hashes are compared, not times, so what is made again
with equal bytes is as good as before. A folder that is missing as a whole contradicts nothing: what lies above it is
compared instead. It is independent of what steps compute and of Ray.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from curation.store.directory import SUCCESS, IntegrityError, RunDirectory

STEP_FOLDERS = ("frames", "embeddings", "clusters", "scores", "subsets")  # each made from the one before it
COMMAND_OF = dict(zip(STEP_FOLDERS, ("ingest", "embed", "cluster", "score", "select"), strict=True))
Marker = dict[str, Any]


def step_of(folder: str) -> str:
    """Which of KINDS a step's folder is."""
    return folder.partition("/")[0]


def step_folders(run: RunDirectory) -> list[str]:
    """The folders of all steps that the run holds files of, in the order in which they are made from each other."""
    named = [f"{kind}/{name}" for kind in ("scores", "subsets") for name in run.folders(kind)]
    return sorted(filter(lambda folder: holds(run, folder), (*STEP_FOLDERS[:-1], *named)), key=by_step)


def by_step(folder: str) -> tuple[int, str]:
    """Sort key of folders."""
    return (STEP_FOLDERS.index(step_of(folder)), folder)


def holds(run: RunDirectory, folder: str) -> bool:
    """Whether a step's folder holds files of its own; those of other passes below scores/ do not count."""
    return bool(run.names(folder)) if folder == "scores" else run.holds_files(folder)


def read_marker(run: RunDirectory, folder: str) -> Marker | None:
    """The marker of a step's folder; None where it has none."""
    path = f"{folder}/{SUCCESS}"
    marker: Marker | None = run.read_json(path) if run.exists(path) else None
    return marker


def parent_of(run: RunDirectory, folder: str, inputs: Mapping[str, str], made_from: Mapping[str, str]) -> str | None:
    """The folder that one was made from; for a subset the pass that it records, or the one with its hash."""
    kind = step_of(folder)
    if kind == STEP_FOLDERS[0]:
        return None
    above = STEP_FOLDERS[STEP_FOLDERS.index(kind) - 1]
    if above != "scores":
        return above
    recorded = next((name for name in made_from if step_of(name) == above), None)
    return recorded or pass_with(run, inputs.get(above)) or above


def pass_with(run: RunDirectory, output_hash: str | None) -> str | None:
    """The scoring pass whose output has this hash."""
    for folder in ("scores", *(f"scores/{name}" for name in run.folders("scores"))):
        marker = read_marker(run, folder)
        if marker is not None and marker["output_hash"] == output_hash:
            return folder
    return None


def made_from(run: RunDirectory, folder: str, inputs: Mapping[str, str]) -> dict[str, str]:
    """The output hashes, by folder, of everything that a step's output will descend from: what its marker records."""
    parent = parent_of(run, folder, inputs, {})
    marker = read_marker(run, parent) if parent else None
    if parent is None or marker is None:
        return {}
    lineage: dict[str, str] = marker.get("made_from", {}) | {parent: marker["output_hash"]}
    return lineage


@dataclass(frozen=True)
class Misfit:
    """Why a folder does not fit what is in the run now; `unfinished` names a folder that is still being made."""

    reason: str
    unfinished: str | None = None


def misfit(run: RunDirectory, folder: str) -> Misfit | None:
    """Why a folder, or anything that it was made from, does not fit what is there now; None where all fits.

    An unfinished folder is judged by what it is made from according to run.json.
    """
    entry = read_marker(run, folder) or recorded_hash(run, folder) or {}
    lineage = entry.get("made_from", {})
    parent = parent_of(run, folder, entry.get("inputs", {}), lineage)
    expected = entry.get("inputs", {}).get(step_of(parent)) if parent else None
    while parent is not None:
        marker = read_marker(run, parent)
        if marker is not None:
            if expected is not None and marker["output_hash"] != expected:
                return Misfit(f"{folder}/ was made from another {parent}/ than is there now")
            return misfit(run, parent)
        if holds(run, parent):
            return Misfit(f"{parent}/, which {folder}/ was made from, is unfinished", parent)
        parent = parent_of(run, parent, {}, lineage)
        expected = lineage.get(parent) if parent else None
    return None


def recorded_hash(run: RunDirectory, folder: str) -> dict[str, Any] | None:
    """What run.json says of a step's folder."""
    entry: dict[str, Any] | None = run.read_json("run.json")["steps"].get(folder) if run.exists("run.json") else None
    return entry


def check_inputs(run: RunDirectory, folder: str) -> None:
    """IntegrityError, naming all to delete, where a folder does not fit what it was made from."""
    found = misfit(run, folder)
    if found is None:
        return
    if found.unfinished:
        command = COMMAND_OF[step_of(found.unfinished)]
        raise IntegrityError(f"{found.reason} in {run.uri}; run `python -m curation {command}` first")
    raise IntegrityError(f"{found.reason}: {deletion(run, stale(run))}, and rerun the same command")


def check_subset(folder: RunDirectory) -> None:
    """IntegrityError where a subset's folder lies in a run, RUN/subsets/NAME, and does not fit what is there now."""
    above = folder.address.partition("?")[0].rstrip("/").rsplit("/", 2)
    if len(above) == 3 and above[1] == "subsets":
        run = RunDirectory(above[0] + folder.address.removeprefix("/".join(above)))
        if run.exists("run.json"):
            check_inputs(run, f"subsets/{above[2]}")


def stale(run: RunDirectory) -> list[str]:
    """All folders of a run that do not fit what they were made from, in the order in which they are made."""
    found = {folder: misfit(run, folder) for folder in step_folders(run)}
    return [folder for folder, why in found.items() if why and not why.unfinished]


def descendants(run: RunDirectory, folder: str) -> list[str]:
    """A folder, all that was made from it, and what does not fit anyway: what to delete when it changes."""
    gone = [folder]
    for one in step_folders(run):
        entry = read_marker(run, one) or recorded_hash(run, one) or {}
        parent = parent_of(run, one, entry.get("inputs", {}), entry.get("made_from", {}))
        if one != folder and (parent in gone or misfit(run, one)):
            gone.append(one)
    return sorted(gone, key=by_step)


def deletion(run: RunDirectory, gone: list[str]) -> str:
    """The clause that says which folders to delete. A scoring pass below scores/ that stays is named."""
    staying = [one for one in step_folders(run) if one not in gone and one.startswith("scores/")]
    but = f" but {', '.join(f'{one}/' for one in staying)}" if "scores" in gone and staying else ""
    names = ", ".join(f"{one}/ (all{but})" if one == "scores" and but else f"{one}/" for one in gone)
    return f"delete {names} in {run.uri}"
