"""Trials on a cluster with more GPUs than CPUs to feed them: none waits for what another holds.

The GPUs are counted by Ray and made up; ranks that would compute sleep instead. All else is real: Ray Tune's drivers,
Ray Train's workers with a GPU and a CPU each, and Ray Data that decodes for them while they hold both.
"""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

PROGRAM = """
import pathlib, sys, time, ray
from ray import tune as ray_tune
from ray.data import DataContext
from ray.train import RunConfig, ScalingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from curation.engine import resources
from curation.store.directory import RunDirectory
from tune.resources import shares
from tune.runner import Limit, Tuning, run_trials

def rank(config):
    held = ray.get_runtime_context().get_assigned_resources()
    assert (held["CPU"], held["GPU"]) == (1, 1) and resources.device() == "cuda"
    rows = ray.data.range(16, override_num_blocks=16).map_batches(slow, num_cpus=0.25, batch_size=1)
    decoded = sum(len(batch["id"]) for batch in rows.iter_batches(batch_size=None))
    pathlib.Path(config["folder"], f"rows-{config['number']}").write_text(str(decoded))

def slow(batch):
    time.sleep(0.05)
    return batch

def work(config):
    trainer = DataParallelTrainer(
        rank, train_loop_config=config, scaling_config=ScalingConfig(
            num_workers=1, use_gpu=True, resources_per_worker={"CPU": 1, "GPU": 1}),
        run_config=RunConfig(name=f"rank-{config['number']}", storage_path=config["folder"]),
    )
    trainer.fit()
    ray_tune.report({"rows": int(pathlib.Path(config["folder"], f"rows-{config['number']}").read_text())})

ray.init(address="local", num_cpus=6, num_gpus=4, include_dashboard=False, log_to_driver=False, logging_level=30)
DataContext.get_current().enable_progress_bars = False
share = shares(resources.count("CPU"), resources.count("GPU"), 1, 0, 0)
assert share.trials == 3, share
ended = []
limit = Limit(None, share.trials, RunDirectory(sys.argv[1]))
tuning = Tuning(sys.argv[1], share.trials, limit, lambda *each: ended.append(each))
run_trials(tuning, work, {"folder": sys.argv[1], "number": ray_tune.grid_search(list(range(7)))})
assert limit.held > 0
print(sorted((config["number"], reason) for config, _, reason in ended))
print([int(pathlib.Path(sys.argv[1], f"rows-{number}").read_text()) for number in range(7)])
"""


@pytest.mark.slow
def test_trials_with_gpus_and_decoding_do_not_wait_for_each_other(
    python: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    done = python(str(program), str(tmp_path), PYTHONPATH=str(Path(__file__).parents[3]))
    assert done.returncode == 0, done.stderr[-3000:]
    assert str([16] * 7) in done.stdout.splitlines()
    assert str([(number, "") for number in range(7)]) in done.stdout.splitlines()
