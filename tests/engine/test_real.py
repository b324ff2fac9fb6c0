"""A slice of the real frames with real weights: known duplicates are found, distinct frames stay."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest
from PIL import Image

from curation import pipeline
from curation.clusters.config import ClusterConfig
from curation.embeddings.config import EmbedConfig
from curation.exports.config import ExportConfig
from curation.sources.config import IngestConfig
from curation.subsets.config import SelectConfig

DATA = os.environ.get("ENDOSIEVE_DATA")
pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif(DATA is None, reason="ENDOSIEVE_DATA is not set: it names the folder with data/ and models/"),
]
ORIGINALS, RESIZED, VIDEO, DISTINCT = "kvasir_seg_orig30", "kvasir_seg_352", "sinus_seq381_480", "endotect2020_512"
FRAMES = {ORIGINALS: 30, RESIZED: 60, VIDEO: 40, DISTINCT: 30}


def images(folder: str) -> list[Path]:
    return sorted(Path(str(DATA), "data", folder, "images").iterdir())


def thumbnails(files: list[Path]) -> npt.NDArray[np.float64]:
    """Gray 24 x 24 pictures as rows of mean 0 and length 1: their dot product is a correlation."""

    def values() -> Iterator[npt.NDArray[np.float64]]:
        for file in files:
            with Image.open(file) as image:
                image.draft("L", (48, 48))
                gray = np.asarray(image.convert("L").resize((24, 24), Image.Resampling.BOX), np.float64).ravel()
            yield (gray - gray.mean()) / np.linalg.norm(gray - gray.mean())

    return np.stack(list(values()))


@pytest.fixture(scope="module")
def twins() -> dict[str, str]:
    """For each original the resized frame of the same picture, found by their pixels, without an encoder."""
    originals, resized = images(ORIGINALS), images(RESIZED)
    correlation = thumbnails(originals) @ thumbnails(resized).T
    best = correlation.argmax(axis=1)
    assert correlation.max(axis=1).min() > 0.99
    assert len(set(best.tolist())) == len(originals)
    return {original.name: resized[place].name for original, place in zip(originals, best, strict=True)}


@pytest.fixture(scope="module")
def curated(
    local_ray: None, twins: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The markers, and the decisions with the frames' columns, of a run over links to a slice of the frames."""
    folder = tmp_path_factory.mktemp("real")
    for name, count in FRAMES.items():
        (folder / "frames" / name).mkdir(parents=True)
        listed = images(name)
        if name == RESIZED:
            listed.sort(key=lambda image: image.name not in twins.values())
        for image in listed[:count]:
            (folder / "frames" / name / image.name).symlink_to(image.resolve())
    where = {"run_dir": str(folder / "run")}
    [weights] = Path(str(DATA), "models").glob("*.safetensors")
    encoder = {"encoder": "vit_small_patch14_dinov2", "weights": str(weights), "image_size": 224, "pooling": "mean"}
    begun = pipeline.RunConfig(
        ingest=IngestConfig(**where, source=(str(folder / "frames"),), part_rows=40),
        embed=EmbedConfig(**where, **encoder, chunk_rows=16),
        cluster=ClusterConfig(**where, clusters=1),
        select=SelectConfig(**where),
        export=ExportConfig(**where),
    )
    pipeline.run(begun)
    frames = {row["frame_id"]: row for file in (folder / "run/frames").glob("*.parquet") for row in rows_of(file)}
    of_distinct = sorted(
        row["duplicate_similarity"]
        for row in rows_of(folder / "run/scores/part-000000.parquet")
        if frames[row["frame_id"]]["path"].startswith(DISTINCT)
    )
    d = float(of_distinct[int(np.ceil(0.9 * len(of_distinct))) - 1])  # the lowest d that keeps 90 %
    select = SelectConfig(**where, d=d)
    markers = pipeline.run(pipeline.RunConfig(**vars(begun) | {"select": select}))
    decisions = rows_of(folder / "run/subsets/curated/decisions.parquet")
    return markers, [frames[row["frame_id"]] | row for row in decisions]


def rows_of(file: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(file).to_pylist()
    return rows


def test_every_frame_is_accounted_for(curated: tuple[list[dict[str, Any]], list[dict[str, Any]]]) -> None:
    markers, decisions = curated
    assert [marker["rows_in"] for marker in markers[:5]] == [160] * 5
    assert [marker["rejected"] for marker in markers] == [0] * 6
    assert len(decisions) == len({row["frame_id"] for row in decisions}) == 160
    assert {row["reason"] for row in decisions} == {"kept", "duplicate"}


def kept_of(decisions: list[dict[str, Any]], folder: str) -> float:
    kept = [row["kept"] for row in decisions if row["path"].startswith(folder + "/")]
    assert len(kept) == FRAMES[folder]
    return sum(kept) / len(kept)


def test_consecutive_frames_shrink_where_distinct_ones_stay(
    curated: tuple[list[dict[str, Any]], list[dict[str, Any]]],
) -> None:
    _, decisions = curated
    assert kept_of(decisions, DISTINCT) >= 0.9
    assert kept_of(decisions, VIDEO) <= 0.4


def test_originals_and_their_resized_twins_are_duplicates(
    curated: tuple[list[dict[str, Any]], list[dict[str, Any]]], twins: dict[str, str]
) -> None:
    by_path = {row["path"]: row for row in curated[1]}
    for original, resized in twins.items():
        pair = by_path[f"{ORIGINALS}/{original}"], by_path[f"{RESIZED}/{resized}"]
        assert not all(row["kept"] for row in pair), f"{original} and {resized} were both kept"
