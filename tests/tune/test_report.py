"""A sweep's report: Markdown and a page that hold the results, read back from the folder alone."""

import csv
import io
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from curation.store.directory import RunDirectory
from training.reporting import results as trained
from tune import figures, report
from tune.config import Question
from tune.results import halted_row, sweep_row, table_of
from tune.space import Candidate, Point, full_pool

RECORD = {"updates": 12, "flops": 1e9, "pretrain_hours": 0.5, "evaluate_hours": 0.25}


class Page(HTMLParser):
    """Cells of a page's table, and how many of some elements it has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.count = dict.fromkeys(("svg", "figcaption", "tr", "script", "img", "link"), 0)
        self.within = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        del attrs
        self.within = tag
        if tag in self.count:
            self.count[tag] += 1

    def handle_data(self, data: str) -> None:
        if self.within == "td" and data.strip():
            self.cells.append(data)


@pytest.fixture
def swept(tmp_path: Path) -> RunDirectory:
    """The folder of a finished sweep: configurations, baselines, a halted one, one that keeps nothing, a twin."""
    output, question = RunDirectory(str(tmp_path)), Question(more_alphas=(0.0,))
    points = {
        0.20: Point(epsilon=0.5, d=0.8),
        0.40: Point(epsilon=0.5, d=0.9),
        0.45: Point(epsilon=0.9, d=0.9),
        0.99: full_pool(),
        0.39: Point(select="random", budget=40.0, baseline="random"),
    }
    rows, paths = [], {}
    for place, (ratio, point) in enumerate(points.items()):
        ious = np.random.default_rng(place).uniform(0.4, 0.8, 30)
        place_of = {"subset": point.name, "method": "meddel", "train_dataset": "p", "test_dataset": "p", "seed": 0}
        measured = {"images": 30, "miou": float(ious.mean()), "image_iou": ious.tolist(), "epoch": 1, "final": True}
        table = trained.as_table([place_of | measured])
        output.write_table(f"results/{place}.parquet", table)
        paths[point.name] = [f"results/{place}.parquet"]
        one = Candidate(point, round(100 * ratio), ratio, "R/subsets/x", point.name)
        rows.append(sweep_row(one, RECORD, table, question))
    twin = Candidate(Point(epsilon=0.5, d=0.81), 20, 0.2, "R/subsets/x", points[0.20].name, 0.995)
    rows.append(rows[0] | {"name": twin.name, "d": 0.81})
    rows.append(sweep_row(Candidate(Point(d=0.1), reason="keeps <none> of it"), None, None, question))
    waiting = sweep_row(Candidate(Point(epsilon=0.9, d=0.7), 10, 0.1, "f", "y"), None, None, question)
    rows.append(halted_row(waiting, {"miou": 0.31, "normdel": 0.57, "updates": 4}))
    output.write_table("results.parquet", table_of(rows))
    output.write_json("sweep.json", {"question": vars(question), "results": paths})
    return output


def test_the_listing_says_all_there_is_to_say_of_a_configuration() -> None:
    found = report.listing(
        [
            Candidate(full_pool(), 99, 0.99, "f", "full", whole=True),
            Candidate(Point(d=0.999), 99, 0.99, "f", "full", 1.0, whole=True),
            Candidate(Point(d=0.9), 98, 0.98, "f", "full", 0.9951),
            Candidate(Point(d=0.1), reason="keeps none"),
        ]
    )
    assert [" ".join(line.split()) for line in found.splitlines()[1:]] == [
        "full 99 99.00%",
        "meddel-d0.999 99 99.00% keeps every frame; trained as full (Jaccard 1.000)",
        "meddel-d0.9 98 98.00% trained as full (Jaccard 0.995)",
        "meddel-d0.1 0 0.00% not trained: keeps none",
    ]


def test_the_report_is_made_from_the_folder_alone(swept: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    found = report.conclude(swept)
    assert found.best is not None
    told = capsys.readouterr().out
    markdown = swept.read_bytes("summary.md").decode()
    assert markdown.rstrip("\n") in told
    assert "Not trained: meddel-d0.1: keeps <none> of it." in markdown
    assert "Trained once for nearly the same frames: meddel-epsilon0.5-d0.81 as meddel-epsilon0.5-d0.8" in markdown
    assert "With alpha 0 the highest NormDEL is" in markdown
    assert "| 31.00 (probe) |" in markdown
    assert "Seeds: 1. The intervals come from these few trainings and are too narrow" in markdown
    rows = list(csv.DictReader(io.StringIO(swept.read_bytes("summary.csv").decode())))
    assert [row["name"] for row in rows] == swept.read_table("results.parquet")["name"].to_pylist()
    lines = [line for line in markdown.splitlines() if line.startswith("| ")][2:]
    assert len(lines) == len(rows) == 8
    values = [float(line.split("|")[6].split(" %")[0]) for line in lines if "]" in line]
    assert values == sorted(values, reverse=True)


def test_a_sweep_that_tried_nothing_yet_has_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = RunDirectory(str(tmp_path))
    output.write_table("results.parquet", table_of([]))
    output.write_json("sweep.json", {"question": vars(Question()), "results": {}})
    assert report.conclude(output).best is None
    assert "No configuration was finished" in capsys.readouterr().out
    assert "No configuration was finished" in output.read_bytes("summary.html").decode()


def test_the_page_needs_no_other_file(swept: RunDirectory) -> None:
    report.conclude(swept)
    text = swept.read_bytes("summary.html").decode()
    page = Page(text)
    assert page.count == {"svg": 4, "figcaption": 4, "tr": 9, "script": 0, "img": 0, "link": 0}
    assert "meddel-epsilon0.5-d0.8" in page.cells
    assert "&lt;none&gt;" in text
    for name in ("pareto", "map", "coordinates", "importance"):
        assert swept.exists(f"{name}.png")
        assert swept.exists(f"{name}.svg")


def test_few_seeds_are_told_and_three_are_not() -> None:
    row = {"state": "finished", "seeds": 2, "name": "a", "trained": "a"}
    assert report.notes([row])[0].startswith("Seeds: 2.")
    assert report.notes([row | {"seeds": 3}]) == []
    assert report.notes([]) == []


def test_the_map_has_cells_for_a_grid_and_points_for_draws() -> None:
    draws = [{"epsilon": e, "d": d, "normdel": e * d} for e, d in np.random.default_rng(0).uniform(0.5, 1, (20, 2))]
    chart = figures.normdel_map([*draws, {"epsilon": None, "d": 0.7, "normdel": 0.5}])
    assert not chart.axes[0].images
    assert [len(one.get_offsets()) for one in chart.axes[0].collections] == [20, 1]
    grid = [{"epsilon": e, "d": d, "normdel": e * d} for e in (0.5, 0.9) for d in (0.7, 0.8)]
    assert figures.normdel_map(grid).axes[0].images[0].get_array().shape == (2, 2)
    line = [{"epsilon": 0.9, "d": d, "normdel": d} for d in np.linspace(0.7, 0.9, 20)]
    assert not figures.normdel_map(line).axes[0].images


def test_equal_results_give_equal_files(swept: RunDirectory) -> None:
    report.conclude(swept)
    first = swept.read_bytes("summary.html")
    report.conclude(swept)
    assert swept.read_bytes("summary.html") == first


def test_a_folder_without_a_sweep_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no sweep"):
        report.conclude(RunDirectory(str(tmp_path)))
