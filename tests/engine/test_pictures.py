"""Picture files as people have them, through ingest and embed: TIFFs of CVC-ClinicDB's kind, depths, turns, pages."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tifffile
from PIL import ExifTags, Image

from curation import pipeline
from curation.embeddings.embed import embed
from curation.frames.ingest import ingest

WIDTH, HEIGHT = 128, 96


def picture(seed: int) -> Image.Image:
    low = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(low).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)


def draw(folder: Path) -> None:
    """Pictures 0 and 1 in every way; picture 2 with pages and animation frames behind it."""
    folder.mkdir()
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    for seed in (0, 1):
        image = picture(seed)
        gray = np.asarray(image.convert("L"))
        planes = np.moveaxis(np.asarray(image), 2, 0)
        tifffile.imwrite(folder / f"c{seed}_planar.tif", planes, photometric="minisblack", planarconfig="separate")
        image.save(folder / f"c{seed}_plain.png")
        turned = image.transpose(Image.Transpose.ROTATE_90)
        turned.save(folder / f"c{seed}_turned.jpg", quality=95, exif=exif)
        Image.fromarray(gray).save(folder / f"g{seed}_u8.png")
        Image.fromarray(gray.astype(np.uint16) * 257).save(folder / f"g{seed}_u16.png")
        Image.fromarray(gray.astype(np.uint16) * 16).save(folder / f"g{seed}_u12.tif")
        Image.fromarray((gray / 255).astype(np.float32)).save(folder / f"g{seed}_f01.tif")
        Image.fromarray(gray.astype(np.float32)).save(folder / f"g{seed}_f255.tif")
        Image.fromarray(gray.astype(np.int32) * 257).save(folder / f"g{seed}_i32.tif")
    pages = [picture(2), picture(3), picture(4)]
    for name, kind in (("stack.tif", "TIFF"), ("clip.png", "PNG"), ("clip.webp", "WEBP"), ("stereo.jpg", "MPO")):
        pages[0].save(folder / name, kind, save_all=True, append_images=pages[1:], quality=95)
    tifffile.imwrite(folder / "nan.tif", np.full((8, 8), np.nan, np.float32), photometric="minisblack")


def vectors(run: Path) -> dict[str, npt.NDArray[np.float32]]:
    """The embedding of each frame that has one, by path."""
    frames = pq.read_table(run / "frames").select(["frame_id", "path"]).to_pylist()
    found = pq.read_table(run / "embeddings").to_pylist()
    of = {row["frame_id"]: np.array(row["embedding"], np.float32) for row in found}
    assert all(row["brightness"] > 0.1 for row in found)  # none is black
    return {row["path"]: of[row["frame_id"]] for row in frames if row["frame_id"] in of}


def test_every_kind_of_picture_becomes_the_frame_that_it_shows(
    *,
    local_ray: None,
    settings: Callable[..., pipeline.RunConfig],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    draw(tmp_path / "src")
    limits = {"part_rows": 8, "lineage_pattern": None, "max_rejected": 0.1}
    config = settings(tmp_path / "run", (str(tmp_path / "src"),), ingest=limits)
    done = ingest(config.ingest)
    assert (done["rows_in"], done["rows_out"], done["rejected"]) == (23, 22, 1)
    frames: pa.Table = pq.read_table(tmp_path / "run" / "frames")
    assert set(zip(*(frames[name].to_pylist() for name in ("width", "height")), strict=True)) == {(WIDTH, HEIGHT)}
    [bad] = pq.read_table(tmp_path / "run" / "rejected").to_pylist()
    assert (bad["path"], bad["reason"]) == ("nan.tif", "unsupported")
    told = (
        "8 further pages or animation frames in 4 files were not read (src/clip.png, src/clip.webp, src/stack.tif, ...)"
    )
    assert told in done["note"]
    assert told in " ".join(capsys.readouterr().err.split())
    embed(config.embed)
    found = vectors(tmp_path / "run")
    assert len(found) == 22
    for path, vector in found.items():
        same = {other: float(found[other] @ vector) for other in found if other[:2] == path[:2]}
        assert min(same.values()) > 0.99, (path, same)
