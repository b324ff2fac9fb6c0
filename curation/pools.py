"""Public pools for pre-training, as presets of a source: what to read, what its paths tell, how much there is of it.

A source spelled NAME=DIR with one of these names takes the pool's globs and lineage where the user gives none. It
knows no file system.
"""

from dataclasses import dataclass

UUID = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
ASK = "see the publisher"


@dataclass(frozen=True, kw_only=True)
class Pool:
    """A public pool. `count` is None where it depends on how frames were taken from videos."""

    include: tuple[str, ...]
    lineage_pattern: str | None
    count: int | None
    licence: str
    citation: str
    note: str


POOLS: dict[str, Pool] = {
    "gastrovision": Pool(
        include=(),
        lineage_pattern=r"(?P<finding>[^/]+)/[^/]+$",
        count=8000,
        licence=ASK,
        citation="Jha et al., GastroVision, ML4MHD at ICML 2023",
        note="A folder for each of 27 classes; neither patient nor hospital is in the path.",
    ),
    "hyper-kvasir-labelled": Pool(
        include=("**/{lower,upper}-gi-tract/**",),
        lineage_pattern=r"(?:lower|upper)-gi-tract/[^/]+/(?P<finding>[^/]+)/[^/]+$",
        count=10_662,
        licence="CC BY 4.0",
        citation="Borgli et al., HyperKvasir, Scientific Data 2020",
        note="labeled-images/; the 1,000 of segmented-images/ are among its polyps and are left aside.",
    ),
    "hyper-kvasir-unlabelled": Pool(
        include=("**/unlabeled-images/**", "images/*"),
        lineage_pattern=None,
        count=99_417,
        licence="CC BY 4.0",
        citation="Borgli et al., HyperKvasir, Scientific Data 2020",
        note="unlabeled-images/images/; nothing is in the path but the frame's own name.",
    ),
    "hyper-kvasir-videos": Pool(
        include=(),
        lineage_pattern=rf"(?P<procedure>{UUID})",
        count=None,
        licence="CC BY 4.0",
        citation="Borgli et al., HyperKvasir, Scientific Data 2020",
        note="Frames taken from its 374 videos, in a folder or with a name that begins with the video's name.",
    ),
    "kvasir-capsule": Pool(
        include=("**/*_[0-9]*",),
        lineage_pattern=r"(?:(?P<finding>[^/]+)/)?(?P<procedure>[0-9a-f]{16})_\d+\.\w+$",
        count=47_238,
        licence="research and education free, else ask (its page); licence of the files: see the publisher",
        citation="Smedsrud et al., Kvasir-Capsule, Scientific Data 2021",
        note="labelled_images/, unpacked; a name is the capsule video's and the frame's number.",
    ),
}


def table() -> str:
    """The known pools, a paragraph each: name, expected count, licence, citation and what else to know."""
    texts = []
    for name, pool in POOLS.items():
        count = "count unknown" if pool.count is None else f"{pool.count:,} frames"
        texts.append(f"{name}: {count}\n  licence: {pool.licence}\n  cite: {pool.citation}\n  note: {pool.note}")
    return "\n".join(texts)
