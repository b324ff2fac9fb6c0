"""Configurations to subsets: the frames that `select` keeps, twins that share one, and other numbers of clusters."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from curation import pipeline
from curation.subsets.config import SelectConfig
from tune.space import Point, baselines_of, full_pool
from tune.subsets import Chooser


@pytest.fixture
def chooser(local_ray: None, begun: Callable[..., Path], tmp_path: Path) -> Chooser:
    return Chooser(str(begun("clusters")), str(tmp_path / "out"), 0.99)


def ids(folder: str) -> set[str]:
    """The frames of an exported subset."""
    return set(pq.read_table(f"{folder}/kept.parquet")["frame_id"].to_pylist())


def test_a_candidate_is_what_select_keeps(chooser: Chooser, reference: tuple[Path, Any]) -> None:
    found = chooser.candidate(Point(epsilon=0.8, d=0.9))
    wanted = SelectConfig(run_dir=chooser.run_dir, name="own", epsilon=0.8, d=0.9)
    pipeline.select(wanted)
    kept = pq.read_table(f"{chooser.run_dir}/subsets/own/decisions.parquet", filters=[("kept", "=", True)])
    assert ids(found.folder) == set(kept["frame_id"].to_pylist())
    assert (found.frames, found.trained, found.similarity) == (len(kept), found.name, 1.0)
    assert found.ratio == found.frames / chooser.pool()


def test_nearly_equal_subsets_share_one_and_keep_their_own_ratio(chooser: Chooser) -> None:
    whole = chooser.candidate(full_pool())
    twin = chooser.candidate(Point(epsilon=1.9, d=1.0))
    assert (twin.folder, twin.trained, twin.similarity) == (whole.folder, "full", 1.0)
    chooser.same = 0.5
    half = chooser.candidate(Point(select="random", budget=0.7))
    assert half.trained == "full"
    assert half.frames == 105
    assert half.similarity == pytest.approx(105 / whole.frames)
    assert [folder.name for folder in Path(chooser.run_dir, "subsets").iterdir()] == ["sweep-full"]
    assert (whole.whole, twin.whole, half.whole) == (True, True, False)
    assert chooser.candidate(half.point) is half


def test_baselines_have_the_size_they_are_asked_for(chooser: Chooser) -> None:
    made = [chooser.candidate(point) for point in baselines_of(("random", "semdedup"), 31, 0.2)]
    assert [one.frames for one in made] == [31, 31]
    alone = [chooser.candidate(point) for point in baselines_of(("random", "semdedup"), 1, 1 / chooser.pool())]
    assert [one.frames for one in alone] == [1, 1]
    assert made[0].trained != made[1].trained


def test_what_keeps_nothing_is_told_and_makes_nothing(chooser: Chooser) -> None:
    nothing = chooser.candidate(Point(epsilon=1e-6, d=0.9))
    assert "keep none of" in nothing.reason
    assert (nothing.folder, nothing.frames) == ("", 0)
    greedy = chooser.candidate(Point(budget=0.1, rule="greedy"))
    assert "greedy selection depends on the threshold" in greedy.reason


def test_another_number_of_clusters_shares_the_embeddings(chooser: Chooser, tmp_path: Path) -> None:
    own = chooser.candidate(Point(epsilon=0.9, d=0.9))
    other = chooser.candidate(Point(epsilon=0.9, d=0.9, clusters=2))
    assert other.folder.startswith(str(tmp_path / "out/clusters-2/subsets/"))
    assert ids(other.folder) != ids(own.folder)
    [first, *_] = sorted(Path(chooser.run_dir, "embeddings").glob("part-*.parquet"))
    assert Path(tmp_path, "out/clusters-2/embeddings", first.name).samefile(first)
    again = Chooser(chooser.run_dir, chooser.output, 0.99)
    assert again.candidate(other.point).folder == other.folder


def test_a_run_that_is_not_clustered_is_told(begun: Callable[..., Path]) -> None:
    with pytest.raises(ValueError, match="run `python -m curation cluster` first"):
        Chooser(str(begun("embeddings")), "out", 0.99).pool()
