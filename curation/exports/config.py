"""How a subset is exported."""

from dataclasses import dataclass
from typing import Literal

from curation.options import check_name, option, require, run_dir_option


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """How a subset is exported."""

    run_dir: str = run_dir_option()
    name: str = option("Name of the subset.", "curated", hashed=False)
    output: str | None = option("Where to write: a folder for this subset alone; default: its own.", None, hashed=False)
    format: Literal["parquet", "folder"] = option("One Parquet table, or a folder of image files.", "parquet")
    with_images: bool = option("Put the untouched encoded bytes into the Parquet table.", False)
    link: Literal["copy", "hard", "symbolic"] | None = option(
        "The files of format folder: copies or links. Default: copy.", None
    )

    def __post_init__(self) -> None:
        check_name(self.name)
        require(
            self.link is None or self.format == "folder",
            "link is for the files of a folder, and format parquet has none; leave it out, or give --format folder",
        )

    @property
    def linking(self) -> str:
        """`link`, or its default."""
        return self.link or "copy"
