"""A sweep's rows and answers: values by hand, fronts against a double loop, and what each question prefers."""

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.metrics.intervals import Bootstrap, paired_comparison
from training.metrics.normdel import normdel
from training.reporting import results as trained
from tune.config import Question
from tune.results import Row, answer, binned, front, halted_row, ious_of, main_effects, sweep_row, table_of
from tune.space import Candidate, Point, full_pool

RECORD = {"updates": 12, "flops": 1e9, "pretrain_hours": 0.5, "evaluate_hours": 0.25}
Ious = list[list[float]]


def rows_of(ious: Ious, sets: tuple[str, ...] = ("polyps",)) -> pa.Table:
    """Rows of training.results: the images of each seed, dealt out to some sets."""
    rows: list[dict[str, Any]] = []
    for seed, of_seed in enumerate(ious):
        for name, part in zip(sets, np.array_split(of_seed, len(sets)), strict=True):
            place = {"subset": "s", "method": "meddel", "train_dataset": "polyps", "test_dataset": name, "seed": seed}
            measured = {"images": len(part), "miou": float(part.mean()), "image_iou": part.tolist()}
            rows.append(place | measured | {"epoch": 1, "final": True})
    return trained.as_table(rows[::-1])


def finished(name: str, frames: int, ious: Ious, question: Question | None = None, **values: Any) -> Row:
    """A row of a configuration that was trained, of a pool of 100 frames."""
    point = full_pool() if name == "full" else Point(**values)
    one = Candidate(point, frames, frames / 100, "folder", name)
    return sweep_row(one, RECORD, rows_of(ious), question or Question()) | {"name": name}


def test_a_row_by_hand() -> None:
    ious = [[0.2, 0.4, 0.9], [0.4, 0.6, 0.8]]
    row = finished("a", 20, ious, epsilon=0.9, d=0.8)
    assert (row["state"], row["seeds"], row["ratio"], row["epsilon"], row["d"]) == ("finished", 2, 0.2, 0.9, 0.8)
    assert row["miou"] == pytest.approx((0.5 + 0.6) / 2)
    assert row["standard_error"] == pytest.approx(0.05)
    assert row["normdel"] == pytest.approx(1 / (1 + math.exp(-0.55 * math.exp(-0.2))))
    assert row["normdel_low"] == pytest.approx(float(normdel(row["miou_low"], 0.2)))
    assert row["device_hours"] == 0.75
    assert row["by_set"] == [("polyps > polyps", pytest.approx(0.55))]


def test_images_of_all_sets_count_alike_and_stand_in_one_order() -> None:
    ious = [[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]]
    assert ious_of(rows_of(ious, ("a", "b"))) == ious
    assert ious_of(rows_of(ious, ("a",))) == ious


def test_the_nominal_reading_and_a_configuration_trained_as_another() -> None:
    twin = Candidate(Point(d=0.81), 19, 0.19, "folder", "a", 0.995)
    row = sweep_row(twin, RECORD, rows_of([[0.5]]), Question(reading="nominal"))
    assert (row["ratio"], row["ratio_read"], row["trained"]) == (0.19, 0.2, "a")
    assert row["normdel"] == pytest.approx(float(normdel(0.5, 0.2)))


def test_what_was_not_finished_says_so() -> None:
    none = sweep_row(Candidate(Point(d=0.1), reason="keeps none"), None, None, Question())
    assert (none["state"], none["reason"], none["miou"]) == ("failed", "keeps none", None)
    waiting = sweep_row(Candidate(Point(d=0.5), 10, 0.1, "folder", "x"), None, None, Question())
    assert waiting["state"] == "unfinished"
    stopped = halted_row(waiting, {"miou": 0.3, "normdel": 0.55, "updates": 4, "unit": 1})
    assert (stopped["state"], stopped["miou"], stopped["updates"]) == ("halted", 0.3, 4)
    table = table_of([none, waiting, stopped])
    assert not any(table["on_ratio_front"].to_pylist())


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12))
def test_the_front_against_a_double_loop(points: list[tuple[int, int]]) -> None:
    found = front(np.array([p[0] for p in points], float), np.array([p[1] for p in points], float))
    for (price, worth), on_front in zip(points, found, strict=True):
        beaten = any(p <= price and w >= worth and (p, w) != (price, worth) for p, w in points)
        assert on_front == (not beaten)


def noisy(mean: float, seed: int, images: int = 200) -> Ious:
    """IoU of three seeds around a mean."""
    generator = np.random.default_rng(seed)
    return [np.clip(mean + generator.normal(0, 0.02, images), 0, 1).tolist() for _ in range(3)]


def questioned(question: Question) -> tuple[list[Row], dict[str, Ious]]:
    """A small subset that is much worse, a middle one as good as everything, a random one, and the full pool."""
    found = {"small": noisy(0.40, 1), "middle": noisy(0.70, 2), "random": noisy(0.60, 3), "full": noisy(0.70, 4)}
    sizes = {"small": 5, "middle": 30, "random": 30, "full": 100}
    kinds: dict[str, Any] = {"random": {"select": "random", "baseline": "random", "budget": 30.0}}
    rows = [finished(name, sizes[name], ious, question, **kinds.get(name, {"d": 0.5})) for name, ious in found.items()]
    return table_of(rows).to_pylist(), found


def test_the_smallest_subset_that_is_not_inferior() -> None:
    question = Question(question="non-inferior", margin=0.01)
    found = answer(*questioned(question), question)
    assert found.best is not None
    assert found.best["name"] == "middle"
    assert "smallest that is not worse than the full pool by more than 1 points with 95%" in found.words
    assert "Better than random: +9.7" in found.words
    assert [name for name, _ in found.against] == ["random", "full"]


def test_nobody_is_not_inferior_where_all_are_worse() -> None:
    question = Question(question="non-inferior", margin=0.001)
    rows, ious = questioned(question)
    worse = [row for row in rows if row["name"] != "middle"]
    found = answer(worse, ious, question)
    assert found.best is not None
    assert found.best["name"] == "full"
    assert found.words.startswith("No subset is shown")


def test_subsets_are_tested_from_the_largest_down_until_one_fails() -> None:
    question = Question(question="non-inferior", margin=0.01)
    rows, ious = questioned(question)
    ious["large"] = noisy(0.5, 5)
    large = finished("large", 60, ious["large"], question, d=0.9)
    found = answer([*rows, large], ious, question)
    assert found.best is not None
    assert found.best["name"] == "full"


def test_one_poor_configuration_ends_its_own_family_only() -> None:
    question = Question(question="non-inferior", margin=0.02)
    rows, ious = questioned(question)
    ious["large"] = noisy(0.5, 5)
    large = finished("large", 60, ious["large"], question, epsilon=0.5, d=0.9)
    found = answer([*rows, large], ious, question)
    assert found.best is not None
    assert found.best["name"] == "middle"
    assert "in each of 2 families" in found.words


def test_more_families_ask_for_more() -> None:
    rows, ious = questioned(Question())
    low = paired_comparison(ious["middle"], ious["full"], Bootstrap(level=0.9)).low
    question = Question(question="non-inferior", margin=-low + 1e-5)
    alone = answer(rows, ious, question)
    others = [finished(f"other{place}", 60, noisy(0.3, place), epsilon=0.1 * place, d=0.9) for place in range(1, 9)]
    many = answer([*rows, *others], ious | {row["name"]: noisy(0.3, 9) for row in others}, question)
    assert alone.best is not None
    assert many.best is not None
    assert (alone.best["name"], many.best["name"]) == ("middle", "full")


def test_a_twin_that_wins_says_whose_frames_were_trained() -> None:
    rows, ious = questioned(Question())
    [middle] = [row for row in rows if row["name"] == "middle"]
    found = answer([middle | {"name": "twin", "frames": 29}], ious, Question())
    assert "It keeps 29 frames" in found.words
    assert "What was trained for it, and is exported, is middle, of nearly the same frames." in found.words
    assert "What was trained for it" not in answer([middle], ious, Question()).words


def test_the_front_is_named() -> None:
    question = Question(question="pareto")
    found = answer(*questioned(question), question)
    assert found.words.startswith("On the front of ratio and mIoU: small (5.0%: ")
    assert "random" not in found.words.split(". It keeps")[0]


def test_the_highest_normdel_and_an_honest_comparison() -> None:
    question = Question(alpha=0.0)
    rows, ious = questioned(question)
    best = max(rows, key=lambda row: row["miou"])["name"]
    found = answer(rows, ious, question)
    assert found.best is not None
    assert found.best["name"] == best in ("middle", "full")
    small = answer(rows, ious, Question(alpha=8.0))
    assert "NormDEL (alpha 8)" in small.words
    worst = [row for row in rows if row["name"] in ("small", "full")]
    said = answer([row | {"normdel": 1.0 if row["name"] == "small" else 0.5} for row in worst], ious, question)
    assert "Worse than full: -30." in said.words


def test_without_results_there_is_no_answer() -> None:
    assert answer([], {}, Question()).best is None
    question = Question(question="non-inferior")
    rows, ious = questioned(question)
    waiting = answer(rows[:1], ious, question)
    assert waiting.best is None
    assert "full pool is not finished" in waiting.words


def configured(pairs: list[tuple[float, float]], values: list[float]) -> list[Row]:
    """Rows with epsilon, d and a NormDEL."""
    return [
        finished(str(pair), 10, [[0.5]], epsilon=pair[0], d=pair[1]) | {"normdel": value}
        for pair, value in zip(pairs, values, strict=True)
    ]


def test_main_effects_by_hand() -> None:
    rows = configured([(0.5, 0.8), (0.5, 0.9), (0.9, 0.8), (0.9, 0.9)], [0.50, 0.52, 0.60, 0.62])
    # all 0.0104 about the mean, 0.0004 of it within the values of epsilon: 2 degrees of freedom, of 3 in all
    assert main_effects(rows) == {"epsilon": pytest.approx((0.0104 - 3 * 0.0004 / 2) / 0.0104), "d": 0.0}
    assert main_effects(rows[:1]) == {}
    assert main_effects([]) == {}


def test_draws_that_do_not_matter_have_no_importance_and_those_that_do_have_much() -> None:
    found: dict[str, list[float]] = {"epsilon": [], "d": []}
    for seed in range(20):
        generator = np.random.default_rng(seed)
        pairs = [(float(e), float(d)) for e, d in generator.uniform(0.1, 0.9, (40, 2))]
        for axis, share in main_effects(configured(pairs, [0.5 + 0.1 * d for _, d in pairs])).items():
            found[axis].append(share)
    assert np.mean(found["epsilon"]) < 0.08
    assert min(found["d"]) > 0.8


def test_bins_by_hand() -> None:
    assert binned([0.1, 0.2, 0.3, 0.4]) == ["0", "0", "1", "1"]
    assert binned([0.1, 0.1, 0.9, 0.9]) == ["0.1", "0.1", "0.9", "0.9"]
    assert binned([None, 0.1, 0.2, 0.3, 0.4, None]) == ["None", "0", "0", "1", "1", "None"]
    assert binned(["any", None, "greedy"]) == ["any", "None", "greedy"]
