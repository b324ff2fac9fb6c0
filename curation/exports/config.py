"""How a subset is exported."""

import re
from dataclasses import dataclass
from typing import Any, Literal

from curation.options import check_name, option, require, run_dir_option

SHARD_MB = 256
UNSHARDED = ("parquet", "folder")
ARROW = "=>"  # between what a mask rule finds in a path and what it puts there


def mask_rule(text: str) -> tuple[re.Pattern[str], str]:
    """What a mask rule FIND=>REPLACE finds, and what it puts in its place. ValueError where it cannot be read."""
    find, arrow, put = text.partition(ARROW)
    require(
        bool(find and arrow),
        f"mask is {text!r}; write FIND{ARROW}REPLACE, for example images/(.*)\\.jpg{ARROW}masks/\\1.png",
    )
    try:
        pattern = re.compile(find)
        pattern.sub(put, "")  # which reads the replacement too
    except (re.error, IndexError) as error:
        raise ValueError(f"mask {text!r} has no regular expression with its replacement: {error}") from error
    return pattern, put


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """How a subset is exported."""

    run_dir: str = run_dir_option()
    name: str = option("Name of the subset.", "curated", hashed=False)
    output: str | None = option("Where to write: a folder for this subset alone; default: its own.", None, hashed=False)
    format: Literal["parquet", "folder", "huggingface", "webdataset", "mds", "litdata", "lance", "tfrecord"] = option(
        "One Parquet table, a folder of image files, or shards for another library's loader.", "parquet"
    )
    with_images: bool = option("Put the untouched encoded bytes into the Parquet table.", False)
    link: Literal["copy", "hard", "symbolic"] | None = option(
        "The files of format folder: copies or links. Default: copy.", None
    )
    shard_mb: int | None = option(f"Encoded images in one shard, in MB of 2^20 bytes. Default: {SHARD_MB}.", None)
    shuffle_seed: int | None = option("Shuffle the frames of shards with this seed. Default: the tables' order.", None)
    keep_together: str | None = option(
        "A column of frames (procedure): its frames follow each other in one shard. Without a value: by itself.", None
    )

    mask: str | None = option(
        "FIND=>REPLACE: a regular expression in a frame's path, and what makes it the path of its mask in that source. "
        "Default: no masks.",
        None,
    )

    def __post_init__(self) -> None:
        check_name(self.name)
        require(
            self.link is None or self.format == "folder",
            f"link is for the files of a folder, and format {self.format} has none; leave it out, or give "
            "--format folder",
        )
        for name in ("shard_mb", "shuffle_seed", "keep_together", "mask"):
            require(
                self.sharded or getattr(self, name) is None,
                f"{name} is for formats with shards, and format {self.format} has none; leave it out, or give "
                "--format webdataset",
            )
        require(
            not (self.sharded and self.with_images),
            f"with_images is for format parquet: format {self.format} always has the images; leave it out",
        )
        require(self.shard_mb is None or self.shard_mb >= 1, f"shard_mb is {self.shard_mb}; it must be at least 1")
        require(
            self.shuffle_seed is None or 0 <= self.shuffle_seed < 2**63,
            f"shuffle_seed is {self.shuffle_seed}; it must be between 0 and {2**63 - 1}",
        )
        if self.mask is not None:
            mask_rule(self.mask)

    @property
    def linking(self) -> str:
        """`link`, or its default."""
        return self.link or "copy"

    @property
    def sharded(self) -> bool:
        """Whether the format has shards."""
        return self.format not in UNSHARDED

    @property
    def shard_bytes(self) -> int:
        """Encoded bytes of the images in a shard."""
        return (self.shard_mb or SHARD_MB) << 20

    @property
    def options(self) -> dict[str, Any]:
        """What shapes the shards, next to the subset."""
        return {
            "format": self.format,
            "shard_mb": self.shard_mb or SHARD_MB,
            "shuffle_seed": self.shuffle_seed,
            "keep_together": self.keep_together,
        } | ({} if self.mask is None else {"mask": self.mask})
