"""Public pools for pre-training, as presets of a source: what to read, the lineage in its paths, how many frames.

A source written as NAME=DIR with one of these names takes the pool's globs and lineage where the user gives none. It
reads no files.
"""

from dataclasses import dataclass

UUID = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
ON_REQUEST = "see the publisher"
HOW = """\
Pools for pre-training, as presets of a source: `python -m curation run --source NAME=DIR`, for example
--source gastrovision=/data/GastroVision, reads the pool's frames and takes their lineage from their paths.
"""


@dataclass(frozen=True, kw_only=True)
class Pool:
    """A public pool. `count` is None where it depends on how frames were taken from videos."""

    layout: str  # the folder tree, for messages
    include: tuple[str, ...]
    lineage_pattern: str | None
    count: int | None
    licence: str
    citation: str
    note: str


POOLS: dict[str, Pool] = {
    "gastrovision": Pool(
        layout="CLASS/NAME.jpg (27 classes)",
        include=(),
        lineage_pattern=r"(?P<finding>[^/]+)/[^/]+$",
        count=8000,
        licence=ON_REQUEST,
        citation="Jha et al., GastroVision, ML4MHD at ICML 2023",
        note="Neither patient nor hospital is in the path.",
    ),
    "hyper-kvasir-labelled": Pool(
        layout="labeled-images/lower-gi-tract/KIND/FINDING/NAME.jpg, and the same below upper-gi-tract/",
        include=("**/{lower,upper}-gi-tract/**",),
        lineage_pattern=r"(?:lower|upper)-gi-tract/[^/]+/(?P<finding>[^/]+)/[^/]+$",
        count=10_662,
        licence="CC BY 4.0",
        citation="Borgli et al., HyperKvasir, Scientific Data 2020",
        note="The 1,000 frames of segmented-images/ are among its polyps and are not read.",
    ),
    "hyper-kvasir-unlabelled": Pool(
        layout="unlabeled-images/images/NAME.jpg",
        include=("**/unlabeled-images/**", "images/*"),
        lineage_pattern=None,
        count=99_417,
        licence="CC BY 4.0",
        citation="Borgli et al., HyperKvasir, Scientific Data 2020",
        note="The path holds only the frame's own name.",
    ),
    "hyper-kvasir-videos": Pool(
        layout="VIDEO/NAME.jpg or VIDEO_NAME.jpg, in any folder (VIDEO: the video's name, a UUID)",
        include=(),
        lineage_pattern=rf"(?P<procedure>{UUID})",
        count=None,
        licence="CC BY 4.0",
        citation="Borgli et al., HyperKvasir, Scientific Data 2020",
        note="Frames that you have taken from its 374 videos; videos themselves are not read.",
    ),
    "kvasir-capsule": Pool(
        layout="labelled_images/FINDING/VIDEO_NUMBER.jpg (VIDEO: 16 hexadecimal digits)",
        include=("**/*_[0-9]*",),
        lineage_pattern=r"(?:(?P<finding>[^/]+)/)?(?P<procedure>[0-9a-f]{16})_\d+\.\w+$",
        count=47_238,
        licence="research and education free, else ask (its page); licence of the files: see the publisher",
        citation="Smedsrud et al., Kvasir-Capsule, Scientific Data 2021",
        note="Unpacked; a name is the capsule video's and the frame's number.",
    ),
}


def pools_table() -> str:
    """How to name a pool, and a paragraph on each known one: name, expected count, layout and more."""
    texts = [HOW]
    for name, pool in POOLS.items():
        count = "count unknown" if pool.count is None else f"{pool.count:,} frames"
        facts = {"layout": pool.layout, "licence": pool.licence, "cite": pool.citation, "note": pool.note}
        texts.append("\n  ".join([f"{name}: {count}", *(f"{key}: {text}" for key, text in facts.items())]))
    return "\n".join(texts)
