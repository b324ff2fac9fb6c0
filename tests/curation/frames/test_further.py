"""What is said of pages and animation frames that are not read."""

from curation.frames.further import FURTHER, Further, further_of


def rows(*counts: int) -> list[dict[str, object]]:
    return [{"source": "s", "path": f"{place}.tif", FURTHER: count} for place, count in enumerate(counts)]


def test_parts_add_up_and_the_first_three_are_named() -> None:
    one, other = further_of(rows(0, 4, 0, 1)), further_of(rows(2, 2, 2, 2))
    assert one == Further(5, 2, ("s/1.tif", "s/3.tif"))
    both = one + other
    assert both == Further(13, 6, ("s/1.tif", "s/3.tif", "s/0.tif"))
    assert both.describe() == (
        "13 further pages or animation frames in 6 files were not read (s/1.tif, s/3.tif, s/0.tif, ...)"
    )
    assert one.describe().endswith("in 2 files were not read (s/1.tif, s/3.tif)")
    assert Further.from_bytes(both.to_bytes()) == both


def test_nothing_is_said_of_nothing() -> None:
    assert further_of(rows(0, 0)) == Further()
    assert Further().describe() == ""
