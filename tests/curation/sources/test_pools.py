import dataclasses
import sys
from pathlib import Path
from typing import Any

import pytest

from curation.frames import ingest
from curation.options import digest, hashed_fields
from curation.sources import lineage, listing, pools, reader
from curation.sources.config import LINEAGE, IngestConfig, check_pattern

VIDEO = "11305ea5-389a-46c8-95f3-94a1af84247d"
CAPSULE = "131368cc17e44240"
TREES = {
    "gastrovision": ("Angiectasia/a.jpg", "Gastric polyps/b.jpg", "Colon polyps/c.JPG", "readme.txt"),
    "hyper-kvasir-labelled": (
        "labeled-images/lower-gi-tract/pathological-findings/polyps/0d486f49.jpg",
        "labeled-images/upper-gi-tract/anatomical-landmarks/pylorus/1.jpg",
        "labeled-images/image-labels.csv",
        "segmented-images/images/0d486f49.jpg",
        "segmented-images/masks/0d486f49.jpg",
        "unlabeled-images/images/2.jpg",
    ),
    "hyper-kvasir-unlabelled": ("unlabeled-images/images/2.jpg", "segmented-images/images/3.jpg"),
    "hyper-kvasir-videos": (f"lower-gi-tract/polyps/{VIDEO}/000001.jpg", f"{VIDEO}_000002.png", f"{VIDEO}.avi"),
    "kvasir-capsule": (
        f"labelled_images/Polyp/{CAPSULE}_28923.jpg",
        f"labelled_images/Normal clean mucosa/{CAPSULE}_7.png",
        "labelled_images/banner.png",
    ),
}
EXPECTED: dict[str, list[tuple[str, dict[str, str | None]]]] = {
    "gastrovision": [
        ("Angiectasia/a.jpg", {"finding": "Angiectasia"}),
        ("Colon polyps/c.JPG", {"finding": "Colon polyps"}),
        ("Gastric polyps/b.jpg", {"finding": "Gastric polyps"}),
    ],
    "hyper-kvasir-labelled": [
        (TREES["hyper-kvasir-labelled"][0], {"finding": "polyps"}),
        (TREES["hyper-kvasir-labelled"][1], {"finding": "pylorus"}),
    ],
    "hyper-kvasir-unlabelled": [("unlabeled-images/images/2.jpg", {})],
    "hyper-kvasir-videos": [
        (f"{VIDEO}_000002.png", {"procedure": VIDEO}),
        (f"lower-gi-tract/polyps/{VIDEO}/000001.jpg", {"procedure": VIDEO}),
    ],
    "kvasir-capsule": [
        (
            f"labelled_images/Normal clean mucosa/{CAPSULE}_7.png",
            {"finding": "Normal clean mucosa", "procedure": CAPSULE},
        ),
        (f"labelled_images/Polyp/{CAPSULE}_28923.jpg", {"finding": "Polyp", "procedure": CAPSULE}),
    ],
}


def plant(root: Path, paths: tuple[str, ...]) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"x")
    return root


def config(*source: str, **values: Any) -> IngestConfig:
    return IngestConfig(run_dir="unused", source=source, **values)


def lineages_of(settings: IngestConfig) -> lineage.Lineages:
    return lineage.Lineages(reader.parse_sources(settings.source), settings.lineage_pattern)


def test_every_pool_is_tested() -> None:
    assert set(TREES) == set(EXPECTED) == set(pools.POOLS)


@pytest.mark.parametrize("name", TREES)
def test_a_pool_brings_its_globs_and_lineage(name: str, tmp_path: Path) -> None:
    settings = config(f"{name}={plant(tmp_path, TREES[name])}")
    read = lineages_of(settings)[name]
    found = [(entry.path, read.of(entry.path)) for entry in listing.Listing(settings)]
    empty: dict[str, str | None] = dict.fromkeys((*LINEAGE, *read.metadata))
    assert found == [(path, empty | fields) for path, fields in EXPECTED[name]]


@pytest.mark.parametrize(
    ("name", "below"),
    [
        ("hyper-kvasir-labelled", "labeled-images"),
        ("hyper-kvasir-unlabelled", "unlabeled-images"),
        ("kvasir-capsule", "labelled_images"),
    ],
)
def test_the_pools_own_folder_does_as_well_as_the_one_above(name: str, below: str, tmp_path: Path) -> None:
    plant(tmp_path, TREES[name])
    settings = config(f"{name}={tmp_path / below}")
    read = lineages_of(settings)[name]
    found = [(f"{below}/{entry.path}", read.of(entry.path)) for entry in listing.Listing(settings)]
    assert [path for path, _ in found] == [path for path, _ in EXPECTED[name]]
    for (_, fields), (_, expected) in zip(found, EXPECTED[name], strict=True):
        assert {key: value for key, value in fields.items() if value is not None} == expected


def test_what_the_user_says_goes_first(tmp_path: Path) -> None:
    plant(tmp_path, TREES["gastrovision"])
    settings = config(f"gastrovision={tmp_path}", include=("*.JPG",), lineage_pattern=r"(?P<center>Colon)")
    [entry] = listing.Listing(settings)
    assert entry.path == "Colon polyps/c.JPG"
    assert lineages_of(settings)["gastrovision"].of(entry.path) == {
        "center": "Colon",
        "patient": None,
        "procedure": None,
    }


def test_a_folder_that_only_happens_to_have_a_pools_name_is_no_pool(tmp_path: Path) -> None:
    folder = plant(tmp_path / "kvasir-capsule", TREES["kvasir-capsule"])
    [source] = reader.parse_sources((str(folder),))
    assert (source.name, source.pool) == ("kvasir-capsule", None)
    found = listing.Listing(config(str(folder)))
    assert len(list(found)) == 3  # the banner too
    assert found.describe_pools() == ""
    assert lineages_of(config(str(folder))).metadata == ()


def test_pools_and_other_sources_side_by_side(tmp_path: Path) -> None:
    """Globs and lineage apply to their own source; the columns of all are there for each."""
    one = plant(tmp_path / "one", TREES["kvasir-capsule"])
    two = plant(tmp_path / "two", ("banner.png", f"{CAPSULE}_1.jpg"))
    settings = config(f"kvasir-capsule={one}", f"mine={two}", f"gastrovision={tmp_path / 'two'}")
    found = listing.Listing(settings)
    assert [(entry.source, entry.path) for entry in found if entry.source != "gastrovision"] == [
        *(("kvasir-capsule", path) for path, _ in EXPECTED["kvasir-capsule"]),
        ("mine", f"{CAPSULE}_1.jpg"),
        ("mine", "banner.png"),
    ]
    lineages = lineages_of(settings)
    assert lineages.metadata == ("finding",)
    assert lineages["mine"].of(f"{CAPSULE}_1.jpg") == dict.fromkeys(LINEAGE)


def test_another_count_than_published_is_told_not_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = config(
        f"gastrovision={plant(tmp_path / 'a', TREES['gastrovision'])}",
        f"hyper-kvasir-videos={plant(tmp_path / 'b', TREES['hyper-kvasir-videos'])}",
    )
    found = listing.Listing(settings)
    list(found)
    assert found.describe_pools() == "; gastrovision has 3 frames, expected 8000"
    whole = dataclasses.replace(pools.POOLS["gastrovision"], count=3)
    monkeypatch.setitem(pools.POOLS, "gastrovision", whole)
    found = listing.Listing(settings)
    list(found)
    assert found.describe_pools() == ""


WRONG = {
    "gastrovision": ("a.jpg", "b.jpg"),  # no classes
    "hyper-kvasir-labelled": ("images/2.jpg", "lower-gi-tract/readme.txt"),
    "hyper-kvasir-unlabelled": ("labeled-images/lower-gi-tract/pathological-findings/polyps/1.jpg",),
    "hyper-kvasir-videos": ("frames/000001.jpg", f"{VIDEO}.avi"),
    "kvasir-capsule": ("labelled_images/Polyp/frame_1.jpg",),
}


@pytest.mark.parametrize("name", pools.POOLS)
def test_a_folder_without_any_frame_of_the_pool_is_an_error(name: str, tmp_path: Path) -> None:
    """Also beside a source that has frames."""
    wrong = plant(tmp_path / "wrong", WRONG[name])
    other = plant(tmp_path / "other", ("1.jpg",))
    for given in (config(f"{name}={wrong}"), config(f"{name}={wrong}", f"other={other}")):
        with pytest.raises(ValueError, match=f"no frame of {name} in {wrong}: ") as caught:
            listing.count_files(given)
        assert f"Expected {pools.POOLS[name].layout}. " in str(caught.value)
    assert listing.count_files(config(f"mine={wrong}")).listed == len([path for path in WRONG[name] if "jpg" in path])


def test_globs_and_lineage_of_the_user_make_any_folder_the_pool(tmp_path: Path) -> None:
    flat = plant(tmp_path, WRONG["hyper-kvasir-videos"])
    assert listing.count_files(config(f"hyper-kvasir-videos={flat}", include=("frames/*",))).listed == 1
    assert listing.count_files(config(f"hyper-kvasir-videos={flat}", lineage_pattern=r"(?P<frame>\d+)")).listed == 1
    with pytest.raises(ValueError, match="no frame of hyper-kvasir-videos"):
        listing.count_files(config(f"hyper-kvasir-videos={flat}", include=("*.png",)))


@pytest.mark.parametrize("name", ["gastrovision", "kvasir-capsule"])
def test_a_partial_pool_is_warned_of_before_it_is_read(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("curation.frames.ingest.connect", lambda: sys.exit("reached"))
    folder = plant(tmp_path / "pool", TREES[name])
    settings = IngestConfig(run_dir=str(tmp_path / "run"), source=(f"{name}={folder}",))
    with pytest.raises(SystemExit, match="reached"):
        ingest.ingest(settings)
    told = capsys.readouterr().err
    found, pool = len(EXPECTED[name]), pools.POOLS[name]
    assert told.startswith(f"warning: {name} has {found} frames, expected {pool.count}, in {folder}: ")
    assert f"Expected {pool.layout}. " in told
    monkeypatch.setitem(pools.POOLS, name, dataclasses.replace(pool, count=found))
    assert listing.count_files(settings).warnings() == []


def test_the_settings_hash_of_a_run_without_a_pool_is_as_it_was() -> None:
    """A change of this value would make every existing run's ingest step stale."""
    settings = config("frames=/data/frames")
    assert set(hashed_fields(settings)) == {
        "source",
        "include",
        "exclude",
        "lineage_pattern",
        "part_rows",
        "max_pixels",
        "near_copies",
    }
    assert digest(hashed_fields(settings)) == "ec9990fa42cbe1dcd6b16b4f7e4935d4cbe69542e9884b43dee309b6bbc374bc"


def test_counts_are_those_of_the_benchmark() -> None:
    counts = {name: pool.count for name, pool in pools.POOLS.items()}
    assert (counts["gastrovision"], counts["kvasir-capsule"]) == (8000, 47_238)
    assert (counts["hyper-kvasir-labelled"] or 0) + (counts["hyper-kvasir-unlabelled"] or 0) == 110_079


@pytest.mark.parametrize("name", pools.POOLS)
def test_patterns_compile_and_are_listed(name: str) -> None:
    pool = pools.POOLS[name]
    if pool.lineage_pattern:
        assert set(check_pattern(pool.lineage_pattern).groupindex) <= {*LINEAGE, "finding"}
    assert f"{name}: " in pools.pools_table()
    assert all(text in pools.pools_table() for text in (pool.layout, pool.licence, pool.citation, pool.note))
    assert "--source NAME=DIR" in pools.pools_table()
