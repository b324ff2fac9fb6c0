"""Pre-training that is killed, starved or fed what is wrong: it goes on exactly where it stood, or says why not."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from curation.store.directory import RunDirectory
from training.__main__ import main
from training.pretraining import checkpoint

SMALL = {
    "encoder": "test_vit",
    "image-size": 32,
    "decoder-depth": 1,
    "decoder-width": 32,
    "decoder-heads": 2,
    "batch-size": 8,
    "slice-rows": 4,
    "log-steps": 3,
    "checkpoint-steps": 5,
    "picture-steps": 0,
    "precision": "float32",
}
LONG = 300
Started = Callable[..., Any]


def flags(subset: str | Path, output: Path | str, **changes: Any) -> list[str]:
    values = SMALL | {name.replace("_", "-"): value for name, value in changes.items()}
    return ["pretrain", f"--subset={subset}", f"--output={output}", *(f"--{name}={v}" for name, v in values.items())]


@pytest.fixture(scope="module")
def subset(reference: tuple[Path, list[dict[str, Any]]]) -> str:
    return str(next((reference[0] / "subsets").iterdir()))


def wait_for_checkpoint(output: Path, update: int, driver: subprocess.Popen[bytes], log: Path) -> None:
    limit = time.monotonic() + 150
    while (checkpoint.whole_updates(RunDirectory(str(output))) or [0])[-1] < update:
        assert driver.poll() is None, f"it ended before update {update}: {log.read_text()[-3000:]}"
        assert time.monotonic() < limit, f"no checkpoint of update {update}: {log.read_text()[-3000:]}"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def undisturbed(subset: str, started: Started, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("undisturbed") / "output"
    log = output.parent / "log"
    with started(log, "training", *flags(subset, output, steps=LONG, checkpoint_steps=20)) as driver:
        assert driver.wait(180) == 0, log.read_text()
    return output


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["driver", "rank"])
def test_killed_and_run_again_it_is_the_undisturbed_training(
    subset: str, undisturbed: Path, started: Started, tmp_path: Path, victim: str
) -> None:
    output, log = tmp_path / "output", tmp_path / "log"
    settings = {"steps": LONG, "checkpoint_steps": 20}
    with started(log, "training", *flags(subset, output, **settings)) as driver:
        wait_for_checkpoint(output, 20, driver, log)
        if victim == "driver":
            os.kill(driver.pid, signal.SIGKILL)
        else:
            [rank] = [number for number, command in driver.living().items() if "RayTrainWorker" in command]
            os.kill(rank, signal.SIGKILL)
            assert driver.wait(180) == 0, log.read_text()
    if victim == "driver":
        stood = checkpoint.whole_updates(RunDirectory(str(output)))[-1]
        assert stood < LONG
        assert not (output / "encoder.safetensors").exists()
        with started(log, "training", *flags(subset, output, **settings)) as driver:
            assert driver.wait(180) == 0, log.read_text()
    assert (output / "encoder.safetensors").stat().st_size > 500_000
    expected, found = (load_file(folder / "encoder.safetensors") for folder in (undisturbed, output))
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    columns = ["update", "loss", "gradient_norm", "learning_rate"]
    curves = [pq.read_table(folder / "metrics.parquet", columns=columns) for folder in (undisturbed, output)]
    assert curves[0].equals(curves[1])
    assert curves[0]["update"].to_pylist() == list(range(3, LONG + 1, 3))
    assert len(checkpoint.whole_updates(RunDirectory(str(output)))) == 2


def test_two_trainings_in_one_output_are_refused(
    subset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = flags(subset, tmp_path / "output", steps=2)
    with RunDirectory(str(tmp_path / "output")).lock(), ThreadPoolExecutor(1) as other:
        assert other.submit(main, command).result() == 2
    assert "is in use by another process" in capsys.readouterr().err
    assert not (tmp_path / "output" / "settings.json").exists()


def test_no_subset_is_told(local_ray: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(flags(tmp_path, tmp_path / "o", steps=1)) == 2
    assert "holds no exported subset" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 30}, "image_size 30 is not a multiple of the encoder's patch, 16"),
        ({"workers": 2, "min_workers": 1, "batch_size": 4}, "makes 1 slices of 4 images, which 2 workers cannot share"),
        ({"init": "nowhere.safetensors"}, "weights file nowhere.safetensors does not exist"),
        ({"encoder": "vit_tiny_patch16_225"}, "did you mean vit_tiny_patch16_224"),
        ({"mask_ratio": 0.99}, "leaves 0 visible"),
    ],
)
def test_what_cannot_be_trained_is_told_before_anything_starts(
    subset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], message: str
) -> None:
    assert main(flags(subset, tmp_path / "o", **{"steps": 2} | changes)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


@pytest.fixture
def damaged(subset: str, tmp_path: Path) -> Path:
    """A copy of the subset whose third frame's file has gone."""
    folder = Path(shutil.copytree(subset, tmp_path / "damaged"))
    table = pq.read_table(folder / "kept.parquet")
    uris = table["uri"].to_pylist()
    uris[2] = str(tmp_path / "gone.jpg")
    column = table.schema.get_field_index("uri")
    pq.write_table(table.set_column(column, table.schema.field("uri"), pa.array(uris)), folder / "kept.parquet")
    return folder


@pytest.mark.parametrize("cache_gb", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_frames_that_have_gone_are_named(
    damaged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], cache_gb: int
) -> None:
    assert main(flags(damaged, tmp_path / "o", steps=40, cache_gb=cache_gb)) == 2
    told = capsys.readouterr().err
    assert "can no longer be used" in told
    assert "gone.jpg: missing" in told
    assert not (tmp_path / "o" / "encoder.safetensors").exists()


@pytest.mark.slow
def test_a_loss_that_is_no_number_stops_at_once_with_the_checkpoint_from_before(
    subset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "o"
    wild = {"learning_rate": 1e30, "learning_rate_reading": "absolute", "warmup_share": 0.5, "steps": 40}
    assert main(flags(subset, output, **wild)) == 2
    told = capsys.readouterr().err
    assert "training stopped at update" in told
    assert "before any weight changed" in told
    stopped = int(told.split("training stopped at update ")[1].split()[0])
    ids = set(pq.read_table(f"{subset}/kept.parquet")["frame_id"].to_pylist())
    named = told.split("the frames of its batch: ")[1].split(". The checkpoint")[0].split(", ")
    assert len(named) == 8
    assert set(named) <= ids
    state = checkpoint.load(RunDirectory(str(output)), checkpoint.whole_updates(RunDirectory(str(output)))[-1])
    assert state["update"] == stopped - 1
    assert f"The checkpoint of update {stopped - 1} is from before" in told
    assert all(np.isfinite(value.numpy()).all() for value in state["model"].values())


FULL_DISK = """
mount -t tmpfs -o size=400m endosieve "$1" || exit 99
head -c 200m /dev/zero > "$1/filler"
shift_to_command() { shift; "$@"; }
shift_to_command "$@"; echo "first $?"
(cd "$1/o/checkpoints" && find . -name checkpoint.pt | sort)
rm "$1/filler"
shift_to_command "$@"; echo "second $?"
find "$1" -name '.tmp*'
"""


@pytest.mark.slow
def test_a_full_disk_keeps_the_checkpoints_before_and_the_next_call_goes_on(
    subset: str, environment: dict[str, str], tmp_path: Path
) -> None:
    """A small file system of its own holds two checkpoints of 66 MB beside a file, and no third."""
    if subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "x", tmp_path], check=False).returncode:
        pytest.skip("this machine lets nobody mount a file system of their own")
    command = [
        sys.executable,
        "-m",
        "training",
        *flags(subset, tmp_path / "o", encoder="vit_tiny_patch16_224", steps=25, keep_checkpoints=3),
    ]
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", FULL_DISK, "sh", tmp_path, *command],
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    lines = done.stdout.splitlines()
    assert "first 2" in lines, done.stdout + done.stderr
    assert "No space left on device" in done.stderr
    assert "The ones before it are complete; free some space, and rerun the same command" in done.stderr
    kept = [line for line in lines if line.startswith("./")]
    assert kept[0] == "./update-00000005/checkpoint.pt"
    assert lines[-1] == "second 0", done.stdout + done.stderr
