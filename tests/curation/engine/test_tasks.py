"""What a step's verdict says, from what its tasks took."""

import pytest

from curation.engine.tasks import Usage, Work, limit_of

DECODE, WRITE, GPU = Work("decoding", "CPU"), Work("writing", "CPU"), Work("comparing", "GPU")
TWO = {"CPU": 2, "GPU": 1}


@pytest.mark.parametrize(
    ("spent", "driver_s", "expected"),
    [
        (
            {DECODE: Usage(18, 17)},
            0.1,
            "limited by decoding: tasks took 90% of the time of 2 CPUs, 94% of it computing",
        ),
        ({DECODE: Usage(18, 3)}, 0.1, "limited by storage (decoding): tasks took 90% of the time of 2 CPUs, 17%"),
        ({DECODE: Usage(3, 3), WRITE: Usage(15, 12)}, 0.1, "limited by writing: "),
        ({DECODE: Usage(2, 2)}, 9, "limited by the driver, which computed for 90% of the time: tasks took 10%"),
        ({DECODE: Usage(2, 2)}, 1, "limited by the driver, which had too few tasks, or too short ones: "),
        ({DECODE: Usage(2, 2), GPU: Usage(9, 1)}, 1, "limited by comparing: tasks took 90% of the time of 1 GPUs"),
        ({DECODE: Usage(40, 40)}, 0, "tasks took 100% of the time"),
    ],
    ids=["computing", "storage", "most", "driver", "few", "GPU", "more than all"],
)
def test_the_limit(spent: dict[Work, Usage], driver_s: float, expected: str) -> None:
    assert expected in limit_of(spent, 10.0, driver_s, TWO)
