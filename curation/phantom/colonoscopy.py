"""A procedural colonoscopy with known truth: the pipeline can be tried without data, its result compared.

This file plans what is seen when, writes the files and the truth, and compares a subset with it; the pixels come from
curation/phantom/scene.py. It is independent of the pipeline's steps. Every random number comes from (seed, stream,
procedure, frame or scene), so a frame does not depend on the frames drawn before it.
"""

import shutil
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from curation.phantom import scene as scenery
from curation.phantom.invalid import INVALID_KINDS, PLANTED, spoilt

PATIENTS = 3
COPY_KINDS = ("exact_copy", "reencoded_copy")
JPEG_QUALITY = {"center_a": 92, "center_b": 86}
NOISE = 0.006  # standard deviation of the sensor's noise; full scale is 1
PLAN, PATIENT, PROCEDURE, SCENE, FRAME, GRAIN, COPY = range(7)  # streams of random numbers

TRUTH = pa.schema(
    {
        "path": pa.string(),  # below OUTPUT/frames, with "/"
        "center": pa.string(),
        "patient": pa.string(),
        "procedure": pa.string(),
        "frame_index": pa.int32(),
        "scene": pa.string(),  # null for an invalid frame
        "kind": pa.string(),  # distinct, near_duplicate, or one of COPY_KINDS and invalid_kinds
        "copy_of": pa.string(),  # a copy's original, by its path; else null
        "polyp": pa.bool_(),
    }
)


@dataclass(frozen=True, kw_only=True)
class PhantomConfig:
    """What to draw. Raises ValueError for a number out of its range; the shares are of the clean frames."""

    output: str  # a local folder, created
    procedures: int = 6  # spread over 3 patients of 2 centers
    scenes: int = 20  # in each procedure
    frames_per_scene: int = 5  # the mean; a scene has from 1 to less than twice as many
    width: int = 320  # pixels
    height: int = 256
    invalid_share: float = 0.06  # of frames of these kinds, in turn; may exceed 1
    invalid_kinds: tuple[str, ...] = PLANTED
    copy_share: float = 0.06  # exact and re-encoded copies
    seed: int = 0

    def __post_init__(self) -> None:
        """Check every field."""
        if not self.output:
            raise ValueError("output is empty; expected a local folder: name one to draw into")
        least = {"procedures": 1, "scenes": 1, "frames_per_scene": 1, "width": 64, "height": 64, "seed": 0}
        for name, low in least.items():
            if not isinstance(value := getattr(self, name), int) or value < low:
                raise ValueError(f"{name} is {value!r}; expected a whole number from {low}: change {name}")
        if self.width < self.height:
            raise ValueError(f"width {self.width} is below height {self.height}; expected a wide frame: swap")
        for name, high in (("invalid_share", 10), ("copy_share", 1)):
            if not 0 <= (value := getattr(self, name)) <= high:
                raise ValueError(f"{name} is {value!r}; expected a share from 0 to {high}: change {name}")
        if not self.invalid_kinds or not set(self.invalid_kinds) <= set(INVALID_KINDS):
            raise ValueError(f"invalid_kinds is {self.invalid_kinds}; expected some of {', '.join(INVALID_KINDS)}")


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A place where the camera dwells: where the lumen is (units of half the height), and how many polyps."""

    name: str
    number: int
    lumen: tuple[float, float]
    polyps: int


@dataclass(frozen=True, kw_only=True)
class Shot:
    """One file: `procedure` counts from 0, `step` within the scene; `original` is what a copy copies."""

    procedure: int
    frame_index: int
    kind: str
    scene: Scene | None = None
    step: int = 0
    original: "Shot | None" = None

    @property
    def lineage(self) -> tuple[str, str, str]:
        """Center, patient and procedure of the folder in which the file lies."""
        patient = self.procedure % PATIENTS
        return scenery.CENTERS[patient % 2], f"patient_{patient:02d}", f"procedure_{self.procedure:02d}"

    @property
    def path(self) -> str:
        """The file's place below OUTPUT/frames."""
        stills = ["stills"] if self.original else []
        return "/".join([*self.lineage, *stills, f"frame_{self.frame_index:05d}.jpg"])

    @property
    def polyp(self) -> bool:
        """Whether a polyp is in sight."""
        return self.scene is not None and self.scene.polyps > 0

    def row(self) -> dict[str, object]:
        """Return the file's row of the truth."""
        scene, copy_of = self.scene and self.scene.name, self.original and self.original.path
        values = (self.path, *self.lineage, self.frame_index, scene, self.kind, copy_of, self.polyp)
        return dict(zip(TRUTH.names, values, strict=True))


def draw(config: PhantomConfig) -> pa.Table:
    """Draw every frame, every mask and the truth, and return the truth.

    Writes OUTPUT/frames/CENTER/PATIENT/PROCEDURE/frame_00012.jpg (copies one folder deeper, in stills/);
    OUTPUT/masks/ the same path with .png, 0 or 255, the frame's size, only for frames with a polyp in sight;
    and at the end OUTPUT/truth.parquet (schema TRUTH, ordered by path). The same config gives the same bytes.
    Raises ValueError when OUTPUT holds the frames or the truth of another config. About 12 ms per frame.
    """
    shots = plan(config)
    rows = sorted((shot.row() for shot in shots), key=lambda row: str(row["path"]))
    truth, output = pa.Table.from_pylist(rows, TRUTH), Path(config.output)
    _refuse_another(output, truth)
    for procedure in range(config.procedures):
        own = [shot for shot in shots if shot.procedure == procedure and not shot.original]
        patient, wall = _rng(config, PATIENT, procedure % PATIENTS, 0), _rng(config, PROCEDURE, procedure, 0)
        mucosa = scenery.mucosa(patient, wall, own[0].lineage[0], config.width, config.height)
        for shot in own:
            _write_frame(config, mucosa, shot)
    for shot in shots:
        if shot.original:
            _write_copy(config, shot, shot.original)
    pq.write_table(truth, output / "truth.parquet.part")
    (output / "truth.parquet.part").replace(output / "truth.parquet")
    return truth


def compare_with_truth(truth: pa.Table, kept_paths: Collection[str]) -> dict[str, float]:
    """Compare the kept frames with the truth (schema TRUTH); a share is 1 when there was nothing to find.

    A scene with n files, copies included, has n - 1 redundant ones; when all are dropped, n - 1 count.
    Returns duplicates_found: redundant files dropped / redundant files; distinct_kept: the share of scenes
    with a file kept; invalid_dropped: the share of invalid frames not kept; and as whole numbers how many
    scenes, redundant and invalid files there are. Raises ValueError for a path that is not in the truth.
    """
    kept = set(kept_paths)
    scene_of = dict(zip(truth["path"].to_pylist(), truth["scene"].to_pylist(), strict=True))
    if unknown := sorted(kept - scene_of.keys()):
        raise ValueError(
            f"{len(unknown)} kept paths are not in the truth, the first is {unknown[0]!r}; "
            f"expected paths such as {min(scene_of)!r}: compare with the truth of the phantom you curated"
        )
    members = Counter(scene for scene in scene_of.values() if scene is not None)
    invalid = {path for path, scene in scene_of.items() if scene is None}
    survivors = Counter(scene_of[path] for path in kept - invalid)
    redundant = sum(count - 1 for count in members.values())
    found = sum(min(count - survivors[scene], count - 1) for scene, count in members.items())
    return {
        "duplicates_found": found / redundant if redundant else 1.0,
        "distinct_kept": len(survivors) / len(members) if members else 1.0,
        "invalid_dropped": 1 - len(kept & invalid) / len(invalid) if invalid else 1.0,
        "scenes": len(members),
        "redundant": redundant,
        "invalid": len(invalid),
    }


def plan(config: PhantomConfig) -> list[Shot]:
    """Return every file to draw: procedure by procedure in the order of time, then the copies."""
    rng = _rng(config, PLAN, config.procedures, config.scenes)
    invalid = round(config.invalid_share * config.procedures * config.scenes * config.frames_per_scene)
    kinds = config.invalid_kinds
    strays = [(int(rng.integers(config.procedures)), kinds[i % len(kinds)]) for i in range(invalid)]
    shots: list[Shot] = []
    for procedure in range(config.procedures):
        shots += _timeline(config, procedure, [kind for place, kind in strays if place == procedure])
    clean, used = [shot for shot in shots if shot.scene], Counter(shot.procedure for shot in shots)
    chosen = rng.choice(len(clean), round(config.copy_share * len(clean)), replace=False)
    for i, original in enumerate(clean[index] for index in chosen):
        host = original.procedure if rng.random() < 0.5 else int(rng.integers(config.procedures))
        copied = {"kind": COPY_KINDS[i % 2], "original": original}
        shots.append(replace(original, procedure=host, frame_index=used[host], **copied))
        used[host] += 1
    return shots


def _timeline(config: PhantomConfig, procedure: int, strays: list[str]) -> list[Shot]:
    """Return one procedure's frames: scene after scene, with the invalid frames between scenes."""
    rng = _rng(config, PROCEDURE, procedure, 1)
    # Lengths in pairs that add up to twice the mean: the number of frames does not depend on the seed.
    mean = config.frames_per_scene
    shorter = rng.integers(1, 2 * mean, config.scenes // 2).tolist()
    lengths = rng.permutation([*shorter, *(2 * mean - n for n in shorter), *[mean] * (config.scenes % 2)])
    gaps = rng.integers(config.scenes + 1, size=len(strays))
    # The lumen on a sunflower's spiral: no two scenes look the same way.
    turn, spiral = rng.uniform(0, 2 * np.pi), rng.permutation(config.scenes)
    arms = 1.6 * np.sqrt((spiral + 0.5) / config.scenes) * np.exp(1j * (turn + 2.4 * spiral))
    seen: list[tuple[str, Scene | None, int]] = []
    for number in range(config.scenes + 1):
        seen += [(kind, None, 0) for gap, kind in zip(gaps, strays, strict=True) if gap == number]
        if number < config.scenes:
            scene = Scene(
                name=f"procedure_{procedure:02d}/scene_{number:03d}",
                number=number,
                lumen=(float(arms[number].real), float(arms[number].imag)),
                polyps=int(rng.choice(3, p=(0.6, 0.33, 0.07))),
            )
            seen += [("near_duplicate" if n else "distinct", scene, n) for n in range(lengths[number])]
    return [
        Shot(procedure=procedure, frame_index=index, kind=kind, scene=scene, step=step)
        for index, (kind, scene, step) in enumerate(seen)
    ]


def _rng(config: PhantomConfig, stream: int, first: int, second: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence((config.seed, stream, first, second)))


def _camera(scene_rng: np.random.Generator, frame_rng: np.random.Generator, step: int) -> scenery.Camera:
    """Return the drift after `step` frames: a sway within 0.06 units, radians and logs, and a tremor."""
    drift = scene_rng.uniform(-0.06, 0.06, 4) * np.sin(step / 10) + frame_rng.uniform(-0.002, 0.002, 4)
    x, y, turn, advance = drift.tolist()  # Python's floats leave the planes in float32
    return scenery.Camera(shift=(x, y), turn=turn, advance=advance, exposure=frame_rng.uniform(0.97, 1.03))


def _picture(config: PhantomConfig, wall: scenery.Mucosa, shot: Shot) -> tuple[scenery.Plane, scenery.Mask]:
    """Return what the camera sees as a CHW picture, and the HxW mask of the polyps in it."""
    rng = _rng(config, FRAME, shot.procedure, shot.frame_index)
    if shot.scene:
        scene_rng = _rng(config, SCENE, shot.procedure, shot.scene.number)
        view = scenery.view(scene_rng, shot.scene.lumen, shot.scene.polyps)
        return scenery.render_view(wall, view, _camera(scene_rng, rng, shot.step))
    x, y = rng.uniform(-1, 1, 2).tolist()
    picture_CHW, mask_HW = scenery.render_view(wall, scenery.view(rng, (x, y), 0), scenery.Camera())
    return spoilt(shot.kind, picture_CHW, rng), mask_HW


def _write_frame(config: PhantomConfig, wall: scenery.Mucosa, shot: Shot) -> None:
    picture_CHW, mask_HW = _picture(config, wall, shot)
    assert mask_HW.any() == shot.polyp, f"{shot.path}: a planned polyp is not in sight"
    file, mask_file = _files(config, shot)
    grain = _rng(config, GRAIN, shot.procedure, shot.frame_index)
    image = Image.fromarray(scenery.expose(wall, picture_CHW, NOISE, grain))
    image.save(file, quality=JPEG_QUALITY[shot.lineage[0]])
    if shot.polyp:
        Image.fromarray(mask_HW.astype(np.uint8) * 255).save(mask_file)


def _write_copy(config: PhantomConfig, shot: Shot, original: Shot) -> None:
    """Write a copy of a frame that is already there, and of its mask in the copy's size."""
    rng = _rng(config, COPY, shot.procedure, shot.frame_index)
    scale, quality = rng.choice([1.0, rng.uniform(0.85, 0.98)]), int(rng.integers(55, 76))
    size = (round(config.width * scale), round(config.height * scale))
    pairs = list(zip(_files(config, original), _files(config, shot), strict=True))
    for source, target in pairs if shot.polyp else pairs[:1]:
        if shot.kind == "exact_copy":
            shutil.copyfile(source, target)
            continue
        how = Image.Resampling.NEAREST if target.suffix == ".png" else Image.Resampling.BICUBIC
        with Image.open(source) as image:
            image.resize(size, how).save(target, quality=quality)


def _files(config: PhantomConfig, shot: Shot) -> tuple[Path, Path]:
    """Return where the frame and its mask are, and create their folders."""
    file = Path(config.output, "frames", shot.path)
    mask_file = Path(config.output, "masks", shot.path).with_suffix(".png")
    file.parent.mkdir(parents=True, exist_ok=True)
    if shot.polyp:
        mask_file.parent.mkdir(parents=True, exist_ok=True)
    return file, mask_file


def _refuse_another(output: Path, truth: pa.Table) -> None:
    """Raise ValueError when the folder holds files that are not in this truth: two phantoms would mix."""
    advice = "expected a new folder or a draw of the same config: choose another output or delete this one"
    file = output / "truth.parquet"
    if file.exists() and not pq.read_table(file).equals(truth):
        raise ValueError(f"found {file}, the truth of another config; {advice}")
    expected = {output / "frames" / path for path in truth["path"].to_pylist()}
    masked = truth.filter(truth["polyp"])["path"].to_pylist()
    expected |= {(output / "masks" / path).with_suffix(".png") for path in masked}
    found = {file for folder in ("frames", "masks") for file in (output / folder).rglob("*.*")}
    if found - expected:
        raise ValueError(f"found {min(found - expected)}, which this config does not draw; {advice}")
