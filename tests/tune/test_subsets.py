"""Which of nearly equal subsets is trained, of made-up selections; and files shared between run directories."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from curation.store.directory import RunDirectory
from tune.space import Point
from tune.subsets import ORDER, Chooser, share

SAME = 0.993
KEPT = {0.7: range(1000), 0.8: range(1004), 0.9: range(1008), 0.5: range(500)}  # 0.7 and 0.9 are 0.992 alike


@pytest.fixture
def chooser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Chooser]:
    """chooser(): one of a new call; a point's frames are those of its d in KEPT."""
    monkeypatch.setattr("curation.pipeline.select", lambda _: None)
    monkeypatch.setattr("tune.subsets.export", lambda _: None)
    monkeypatch.setattr(Chooser, "kept", lambda _, config: (np.array(KEPT[config.d]), 2000, False))
    return lambda: Chooser(str(tmp_path / "run"), str(tmp_path / "out"), SAME)


def owners(chooser: Chooser, *ds: float) -> dict[float, str]:
    """What is trained for each d, asked for in this order."""
    return {d: chooser.candidate(Point(d=d)).trained.removeprefix("meddel-d") for d in ds}


def test_what_is_trained_does_not_depend_on_the_order_of_a_rerun(chooser: Callable[[], Chooser]) -> None:
    first = owners(chooser(), 0.7, 0.8, 0.9, 0.5)
    assert first == {0.7: "0.7", 0.8: "0.7", 0.9: "0.9", 0.5: "0.5"}  # 0.8 is also like 0.9, which came later
    assert owners(chooser(), 0.9, 0.8, 0.5, 0.7) == first
    assert owners(chooser(), 0.8) == {0.8: "0.7"}


def test_equal_subsets_are_trained_once_whatever_counts_as_alike(
    chooser: Callable[[], Chooser], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "SAME", 1.0)
    monkeypatch.setitem(KEPT, 0.6, range(500))
    assert owners(chooser(), 0.5, 0.6, 0.7, 0.8) == {0.5: "0.5", 0.6: "0.5", 0.7: "0.7", 0.8: "0.8"}


def test_a_new_call_of_other_points_joins_what_was_trained(chooser: Callable[[], Chooser], tmp_path: Path) -> None:
    owners(chooser(), 0.7)
    later = chooser()
    assert owners(later, 0.5, 0.8) == {0.5: "0.5", 0.8: "0.7"}
    order = RunDirectory(str(tmp_path / "out")).read_json(ORDER)
    assert [values["d"] for values in order] == [0.7, 0.5, 0.8]


def test_what_cannot_be_linked_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*places: Any) -> None:
        raise OSError(18, "Invalid cross-device link")

    run = tmp_path / "run"
    for name in ("frames/part-000000.parquet", "embeddings/_SUCCESS.json"):
        (run / name).parent.mkdir(parents=True)
        (run / name).write_text(name)
    (run / "run.json").write_text(json.dumps({"steps": {"frames": 1, "clusters": 2}}))
    monkeypatch.setattr(os, "link", refused)
    share(RunDirectory(str(run)), RunDirectory(str(tmp_path / "other")))
    found = {str(file.relative_to(tmp_path / "other")) for file in (tmp_path / "other").rglob("*") if file.is_file()}
    assert found == {"frames/part-000000.parquet", "embeddings/_SUCCESS.json", "run.json"}
    assert (tmp_path / "other/frames/part-000000.parquet").read_text() == "frames/part-000000.parquet"
    assert json.loads((tmp_path / "other/run.json").read_text())["steps"] == {"frames": 1}
