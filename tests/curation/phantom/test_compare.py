"""A subset against the truth of a phantom: counted by hand, and scene by scene."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.phantom import colonoscopy

# Scene s has 3 files (a frame, a near duplicate, a copy), t has 2, u has 1; two frames are invalid.
HAND_MADE = pa.table(
    {
        "path": ["s0", "s1", "s2", "t0", "t1", "u0", "x0", "x1"],
        "scene": ["s", "s", "s", "t", "t", "u", None, None],
    }
)


@pytest.mark.parametrize(
    ("kept", "found", "distinct", "invalid"),
    [
        pytest.param(["s0", "s1", "s2", "t0", "t1", "u0", "x0", "x1"], 0.0, 1.0, 0.0, id="all"),
        pytest.param([], 1.0, 0.0, 1.0, id="none"),
        pytest.param(["s2", "t0", "u0"], 1.0, 1.0, 1.0, id="perfect"),
        pytest.param(["s0", "s1", "x1"], 2 / 3, 1 / 3, 0.5, id="part"),  # s drops 1 of 2, t counts 1 of 1
    ],
)
def test_compare_by_hand(kept: list[str], found: float, distinct: float, invalid: float) -> None:
    assert colonoscopy.compare_with_truth(HAND_MADE, kept) == pytest.approx(
        {
            "duplicates_found": found,
            "distinct_kept": distinct,
            "invalid_dropped": invalid,
            "scenes": 3,
            "redundant": 3,
            "invalid": 2,
        }
    )


@given(st.lists(st.sampled_from([None, "s", "t", "u"]), min_size=1, max_size=9), st.integers(0, 511))
def test_compare_against_counting_scene_by_scene(scenes: list[str | None], choice: int) -> None:
    paths = [str(i) for i in range(len(scenes))]
    kept = [path for i, path in enumerate(paths) if choice >> i & 1]
    table = pa.table({"path": paths, "scene": pa.array(scenes, pa.string())})
    redundant = found = seen = 0
    for scene in {scene for scene in scenes if scene}:
        members = [path for path, name in zip(paths, scenes, strict=True) if name == scene]
        dropped = [path for path in members if path not in kept]
        redundant += len(members) - 1
        found += len(dropped[: len(members) - 1])
        seen += len(dropped) < len(members)
    result = colonoscopy.compare_with_truth(table, [*kept, *kept])
    assert result["redundant"] == redundant
    assert result["duplicates_found"] * redundant == pytest.approx(found)
    assert result["distinct_kept"] * result["scenes"] == pytest.approx(seen)
    assert all(0 <= result[name] <= 1 for name in ("duplicates_found", "distinct_kept", "invalid_dropped"))


def test_compare_refuses_a_path_it_does_not_know() -> None:
    with pytest.raises(ValueError, match=r"1 kept paths are not in the truth, the first is 'frames/s0'"):
        colonoscopy.compare_with_truth(HAND_MADE, ["s1", "frames/s0"])
