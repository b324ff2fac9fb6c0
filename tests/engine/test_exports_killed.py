"""A worker that is killed while it writes a shard costs that shard alone, and nothing of it stays."""

import json
import os
import signal
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from curation.exports.config import ExportConfig
from curation.exports.export import export


def dying(died: Path, how: Callable[[], None]) -> Callable[..., Any]:
    """write_shards as a worker runs it: the first one reads two frames of a shard, and then it comes to `how`."""

    def write_shards(*arguments: Any) -> Any:
        from curation.exports import shards  # noqa: PLC0415 (in the worker, where nothing is patched)

        intact, left = shards.read, [2]

        def read(*where: Any) -> Any:
            left[0] -= 1
            if left[0] < 0 and not died.exists():
                died.touch()
                how()
            return intact(*where)

        shards.read = read
        try:
            return shards.write_shards(*arguments)
        finally:
            shards.read = intact

    return write_shards


def files(output: Path) -> dict[str, bytes]:
    return {str(file.relative_to(output)): file.read_bytes() for file in output.rglob("*") if file.is_file()}


@pytest.fixture
def config(reference: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], ExportConfig]:
    """config(output): an export in several shards."""
    monkeypatch.setattr(ExportConfig, "shard_bytes", 30_000)
    made = {"run_dir": str(reference[0]), "format": "webdataset", "shuffle_seed": 1}
    return lambda output: ExportConfig(**made, output=str(output))


def check(output: Path, whole: Path, reference: tuple[Path, Any]) -> None:
    """Equal bytes, each frame once, and no other file."""
    assert files(output) == files(whole)
    listed = json.loads((output / "export.json").read_text())["files"]
    assert files(output).keys() == {"export.json", *(file["path"] for file in listed)}
    assert len(listed) > 2
    found: Counter[str] = Counter()
    for shard in output.glob("*.tar"):
        with tarfile.open(shard) as archive:
            found.update(name.partition(".")[0] for name in archive.getnames() if name.endswith(".json"))
    kept = pq.read_table(reference[0] / "subsets/curated/kept.parquet")["frame_id"].to_pylist()
    assert found == Counter(kept)


def test_a_killed_worker_is_replaced(
    reference: tuple[Path, Any],
    config: Callable[[Path], ExportConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    export(config(tmp_path / "whole"))
    died = tmp_path / "died"
    monkeypatch.setattr(
        "curation.exports.shards.write_shards", dying(died, lambda: os.kill(os.getpid(), signal.SIGKILL))
    )
    export(config(tmp_path / "out"))
    assert died.exists()
    check(tmp_path / "out", tmp_path / "whole", reference)


def test_what_failed_is_made_by_a_rerun_and_the_rest_is_left_alone(
    reference: tuple[Path, Any],
    config: Callable[[Path], ExportConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    written: Callable[[Path], dict[str, tuple[int, int]]],
) -> None:
    export(config(tmp_path / "whole"))
    output = tmp_path / "out"

    def fail() -> None:
        raise ValueError("the disk is on fire")

    monkeypatch.setattr("curation.exports.shards.MOST_GROUPS", 1)  # one task writes the shards in turn
    with monkeypatch.context() as patch:
        patch.setattr("curation.exports.shards.write_shards", dying(tmp_path / "died", fail))
        with pytest.raises(ValueError, match="the disk is on fire"):
            export(config(output))
    assert not json.loads((output / "export.json").read_text())["complete"]
    (output / ".tmp-0123-shard-000001.tar").write_bytes(b"half")
    before = written(output)
    export(config(output))
    check(output, tmp_path / "whole", reference)
    after = written(output)
    assert {path for path in before if path.endswith(".tar") and after.get(path) != before[path]} == {
        ".tmp-0123-shard-000001.tar"
    }
