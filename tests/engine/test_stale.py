"""What was made from something else than is there now, and bytes that changed: refused by whatever reads them."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from curation import pipeline
from curation.__main__ import main
from curation.scores.config import ScoreConfig
from curation.store.directory import IntegrityError
from training.loader.subset import read_subset
from tune.space import Point
from tune.subsets import Chooser

Settings = Callable[..., pipeline.RunConfig]
Spell = Callable[..., list[str]]


def attempt(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Exit code and message of a command in this process, on the session's Ray."""
    code = main(arguments)
    lines = capsys.readouterr().err.splitlines()
    errors = [number for number, line in enumerate(lines) if line.startswith("error: ")]
    return code, " ".join(lines[errors[0] :]) if errors else ""


def test_what_was_made_from_other_clusters_is_refused(
    *, begun: Callable[..., Path], settings: Settings, flags: Spell, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = begun("subsets")
    where = ["--run-dir", str(run_dir)]
    shutil.rmtree(run_dir / "clusters")
    assert attempt(capsys, "cluster", *flags(settings(run_dir, cluster={"clusters": 2}).cluster)) == (0, "")
    expected = (
        f"scores/ was made from another clusters/ than is there now: delete scores/, subsets/curated/ in {run_dir}"
    )
    other = ["--name", "other", "--d", "0.7"]
    for command in (["score"], ["select", *other], ["select", "--grid"], ["select", "--d", "0.9"], ["export"]):
        assert attempt(capsys, *command, *where) == (2, f"error: {expected}, and rerun the same command")
    for call in (
        lambda: pipeline.ensure_scored(ScoreConfig(run_dir=str(run_dir))),
        lambda: read_subset(str(run_dir / "subsets/curated")),
        lambda: Chooser(str(run_dir), str(run_dir / "out"), 0.99).candidate(Point(d=0.7)),
    ):
        with pytest.raises(IntegrityError) as caught:
            call()
        assert str(caught.value).startswith(expected)
    for folder in ("scores", "subsets/curated"):
        shutil.rmtree(run_dir / folder)
    assert attempt(capsys, "score", *where) == (0, "")
    assert attempt(capsys, "select", *where, *other) == (0, "")


def test_a_flipped_byte_is_found_by_whatever_reads_it(
    *, begun: Callable[..., Path], settings: Settings, flags: Spell, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = begun("subsets")
    config, part = settings(run_dir), "part-000001.parquet"
    (run_dir / "subsets/curated/kept.parquet").unlink()
    steps: list[tuple[str, Any, list[str]]] = [
        ("export", config.export, ["subsets/curated/decisions.parquet", f"frames/{part}"]),
        ("select", config.select, ["scores/part-000000.parquet", f"frames/{part}"]),
        ("score", ScoreConfig(run_dir=str(run_dir)), [f"clusters/assignments/{part}", f"embeddings/{part}"]),
        ("cluster", config.cluster, [f"embeddings/{part}"]),
        ("embed", config.embed, [f"frames/{part}"]),
    ]
    steps[2][2].extend(["clusters/centroids.parquet", "clusters/mean.parquet"])
    made = {"select": "subsets", "score": "scores", "cluster": "clusters", "embed": "embeddings"}
    for step, of_step, paths in steps:
        if step in made:
            shutil.rmtree(run_dir / made[step])
        for path in paths:
            content = bytearray((run_dir / path).read_bytes())
            content[len(content) // 2] ^= 1
            (run_dir / path).write_bytes(content)
            code, message = attempt(capsys, step, *flags(of_step))
            assert (code, f"{run_dir}/{path} is damaged or was changed" in message) == (2, True), (step, path, message)
            content[len(content) // 2] ^= 1
            (run_dir / path).write_bytes(content)
            marker = run_dir / made.get(step, "nowhere") / "_SUCCESS.json"
            assert not marker.exists()
