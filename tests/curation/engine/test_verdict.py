"""What limited a step, for times whose answer is clear."""

import pytest

from curation.engine.verdict import Spent

FAST, SLOW = {"encode_s": 90.0, "wait_s": 10.0}, {"encode_s": 30.0, "wait_s": 70.0}  # frames come faster, slower
DECODES, READS = {"read_s": 1.0, "decode_s": 9.0}, {"read_s": 8.0, "decode_s": 2.0}


@pytest.mark.parametrize(
    ("spent", "expected"),
    [
        (Spent(**DECODES, **FAST, write_s=1), "limited by the encoders (H200): encoders computed for 90%"),
        (Spent(**DECODES, **SLOW, write_s=1), "limited by decoding: encoders computed for 30%"),
        (Spent(**READS, **SLOW, write_s=1), "limited by storage: encoders computed for 30%"),
        (Spent(**READS, **SLOW), "decoders read files for 80% of theirs"),
        (Spent(**READS, **FAST, write_s=60), "limited by the driver, which wrote for 60%"),
        (Spent(), "limited by the encoders (H200): encoders computed for 100%"),
    ],
)
def test_the_limit(spent: Spent, expected: str) -> None:
    assert expected in spent.verdict(100.0, "H200")


def test_chunks_add_up() -> None:
    spent = Spent()
    for number in range(3):
        spent.add({"read_s": 1.0, "decode_s": 2.0, "encode_s": number, "wait_s": 0.5, "frame_ids": []})
    assert (spent.read_s, spent.decode_s, spent.encode_s, spent.wait_s, spent.busy) == (3, 6, 3, 1.5, 3 / 4.5)
