"""What was made from what: a run of made-up tables, its folders deleted, made again equally and otherwise."""

import itertools
import re
from pathlib import Path

import pyarrow as pa
import pytest

from curation.clusters.config import ClusterConfig
from curation.console import StepSummary
from curation.embeddings.config import EmbedConfig
from curation.scores.config import ScoreConfig
from curation.sources.config import IngestConfig
from curation.store import chain
from curation.store.directory import SUCCESS, IntegrityError, RunDirectory
from curation.store.markers import Step, marker_of, read_record
from curation.subsets.config import SelectConfig

FARTHEST = "scores/farthest_any"
PARENT = {
    "embeddings": "frames",
    "clusters": "embeddings",
    "scores": "clusters",
    FARTHEST: "clusters",
    "subsets/a": "scores",
    "subsets/b": FARTHEST,
}
FOLDERS = ("frames", *PARENT)


def config_of(folder: str, run_dir: str, version: int) -> tuple[str, object]:
    """A step's name and config; the version is a setting of those that have one that shapes the result."""
    where = {"run_dir": run_dir}
    kinds = {
        "frames": ("ingest", IngestConfig(**where, source=("s",), part_rows=1 + version)),
        "embeddings": ("embed", EmbedConfig(**where, seed=version)),
        "clusters": ("cluster", ClusterConfig(**where, clusters=1 + version)),
        "scores": ("score", ScoreConfig(**where, seed=version)),
        FARTHEST: ("score", ScoreConfig(**where, keep="farthest", seed=version)),
        "subsets/a": ("select", SelectConfig(**where, name="a", d=0.5, seed=version)),
        "subsets/b": ("select", SelectConfig(**where, name="b", d=0.5, keep="farthest", seed=version)),
    }
    return kinds[folder]


def step_of(run: RunDirectory, folder: str, version: int) -> Step:
    """The step, after the check of what it reads, as each command does it."""
    name, config = config_of(folder, run.uri, version)
    parent = PARENT.get(folder)
    inputs = {chain.step_of(parent): marker_of(run, parent, "x")["output_hash"]} if parent else {}
    return Step(run, name, folder, config, inputs)


def make(run: RunDirectory, folder: str, version: int = 0, content: int | None = None) -> None:
    """Do a step unless it is done."""
    step = step_of(run, folder, version)
    if step.find() is None:
        step.begin()
        table = pa.table({"number": [version if content is None else content]})
        step.finish(
            StepSummary(rows_in=1, rows_out=1, seconds=0.0), [run.write_table(f"{folder}/part-000000.parquet", table)]
        )


def delete(run: RunDirectory, folder: str) -> None:
    """Delete the files of a step's folder."""
    for name in run.names(folder):
        run.delete(f"{folder}/{name}")


@pytest.fixture
def whole(run: RunDirectory) -> RunDirectory:
    for folder in FOLDERS:
        make(run, folder)
    return run


def below(folder: str) -> set[str]:
    """All that is made from a folder, directly or not."""
    children = {child for child, parent in PARENT.items() if parent == folder}
    return children.union(*map(below, children))


def fits(run: RunDirectory) -> set[str]:
    """The folders that can be used as they are."""
    found = set()
    for folder in filter(lambda folder: chain.holds(run, folder), FOLDERS):
        if chain.misfit(run, folder) is None:
            assert marker_of(run, folder, "x")["rows_out"] == 1
            found.add(folder)
            continue
        with pytest.raises(IntegrityError) as caught:
            marker_of(run, folder, "x")
        named = re.findall(r"(\S+)/(?=[ ,]| \(all)", str(caught.value).partition(": delete ")[2])
        assert named == chain.stale(run)
        assert folder in named
    return found


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_made_otherwise_makes_stale_what_was_made_from_it(whole: RunDirectory, folder: str) -> None:
    delete(whole, folder)
    make(whole, folder, version=1)
    assert fits(whole) == set(FOLDERS) - below(folder)
    for stale in chain.stale(whole):
        delete(whole, stale)
    for again in FOLDERS:
        make(whole, again, version=int(again == folder))
    assert fits(whole) == set(FOLDERS)


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_made_again_with_equal_bytes_is_as_good_as_before(whole: RunDirectory, folder: str) -> None:
    delete(whole, folder)
    make(whole, folder, version=1, content=0)  # other settings, the same tables
    assert fits(whole) == set(FOLDERS)


@pytest.mark.parametrize(
    "gone", [gone for size in (1, 2, 3) for gone in itertools.combinations(FOLDERS, size)], ids="+".join
)
def test_what_is_missing_contradicts_nothing_and_hides_nothing(gone: tuple[str, ...], tmp_path: Path) -> None:
    """However many folders between are missing, a change above them is found."""
    run = RunDirectory(str(tmp_path / "run"))
    for folder in FOLDERS:
        make(run, folder)
    for folder in gone:
        delete(run, folder)
    assert fits(run) == set(FOLDERS) - set(gone)
    first = gone[0]
    if PARENT.get(first) not in gone:
        make(run, first, version=1)
        assert fits(run) == {first} | (set(FOLDERS) - set(gone) - below(first))


@pytest.mark.parametrize("folder", FOLDERS[:-1])
def test_an_unfinished_folder_is_named(whole: RunDirectory, folder: str) -> None:
    whole.delete(f"{folder}/{SUCCESS}")
    for child in below(folder):
        with pytest.raises(IntegrityError, match=rf"{folder}/, which .* was made from, is unfinished .* first"):
            marker_of(whole, child, "x")


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_changed_config_names_all_that_has_to_go(whole: RunDirectory, folder: str) -> None:
    with pytest.raises(ValueError, match="with other settings") as caught:
        make(whole, folder, version=1)
    named = re.findall(r"(\S+)/(?=[ ,])", str(caught.value).partition("; or delete ")[2])
    assert set(named) == {folder} | below(folder)
    assert named == sorted(named, key=chain.by_step)
    assert not isinstance(caught.value, IntegrityError)


def test_the_message_names_what_is_stale_and_why(whole: RunDirectory) -> None:
    delete(whole, "clusters")
    make(whole, "clusters", version=1)
    everything = f"delete scores/, {FARTHEST}/, subsets/a/, subsets/b/ in {whole.uri}, and rerun the same command"
    with pytest.raises(IntegrityError) as caught:
        marker_of(whole, "subsets/b", "x")
    assert str(caught.value) == f"{FARTHEST}/ was made from another clusters/ than is there now: {everything}"
    with pytest.raises(IntegrityError) as caught:
        make(whole, "scores")
    assert str(caught.value) == f"scores/ was made from another clusters/ than is there now: {everything}"


def test_a_pass_below_scores_that_stays_is_named(whole: RunDirectory) -> None:
    with pytest.raises(ValueError, match=rf"delete scores/ \(all but {FARTHEST}/\), subsets/a/ in "):
        make(whole, "scores", version=1)


def test_an_unfinished_step_of_other_inputs_is_not_resumed(whole: RunDirectory) -> None:
    whole.delete(f"scores/{SUCCESS}")
    delete(whole, "clusters")
    make(whole, "clusters", version=1)
    with pytest.raises(IntegrityError, match="scores/ was made from another clusters/ than is there now"):
        make(whole, "scores")


def test_without_run_json_nothing_is_mixed(whole: RunDirectory) -> None:
    whole.delete("run.json")
    assert step_of(whole, "clusters", 0).find() is not None
    with pytest.raises(IntegrityError, match=r"run.json .* does not say with which settings clusters/ was made"):
        step_of(whole, "clusters", 1).find()
    whole.delete(f"scores/{SUCCESS}")
    with pytest.raises(IntegrityError, match="does not say with which settings scores/ was made"):
        step_of(whole, "scores", 0).find()


def test_markers_without_their_lineage_are_compared_step_by_step(whole: RunDirectory) -> None:
    for folder in FOLDERS:
        marker = whole.read_json(f"{folder}/{SUCCESS}")
        del marker["made_from"]
        whole.write_json(f"{folder}/{SUCCESS}", marker)
    assert fits(whole) == set(FOLDERS)
    delete(whole, "clusters")
    make(whole, "clusters", version=1)
    assert fits(whole) == {"frames", "embeddings", "clusters"}


def test_a_subset_in_a_run_and_one_elsewhere(whole: RunDirectory) -> None:
    chain.check_subset(whole.below("subsets/a"))
    delete(whole, "embeddings")
    make(whole, "embeddings", version=1)
    with pytest.raises(IntegrityError, match=r"clusters/ was made from another embeddings/.*subsets/a/, subsets/b/"):
        chain.check_subset(whole.below("subsets/a"))
    chain.check_subset(whole.below("elsewhere/a"))
    assert "scores" in read_record(whole)["steps"]
