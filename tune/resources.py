"""How many trials run at once, and what each may take, so that none waits for what another holds. It imports no Ray.

A trial's driver takes no CPU. Its ranks hold a GPU and a CPU each (without GPUs: CPUs) for as long as they train, and
wait for frames that Ray Data decodes; so decoding must always find CPUs that no rank can take. Hence trials run at once
only while GPUs and CPUs, those of decoding included, suffice for all of them.
"""

from dataclasses import dataclass

from curation.options import require

DECODING_CPUS = 1.0  # of a trial on GPUs, besides the CPU of each rank


@dataclass(frozen=True)
class Shares:
    """How many trials run at once, and the CPUs (with those of decoding), GPUs and ranks of each."""

    trials: int
    cpus: float
    gpus: int
    workers: int


def shares(cpus: int, gpus: int, gpus_per_trial: int, cpus_per_trial: float, most: int) -> Shares:
    """Divide a cluster among trials: `most` at once, 0 for as many as fit.

    With GPUs a trial has `gpus_per_trial` ranks. Without, it has one rank on `cpus_per_trial` CPUs, 0 for all: one
    trial at a time, as more would only share the same cores. ValueError where not even one trial fits.
    """
    if gpus:
        require(
            1 <= gpus_per_trial <= gpus,
            f"gpus_per_trial is {gpus_per_trial}; the cluster has {gpus}, so give 1 to {gpus}",
        )
        least = gpus_per_trial + DECODING_CPUS
        require(
            cpus >= least,
            f"a trial on {gpus_per_trial} GPUs needs {least:g} CPUs, one per rank and {DECODING_CPUS:g} for decoding; "
            f"the cluster has {cpus}",
        )
        fitting = min(gpus // gpus_per_trial, int(cpus / max(least, cpus_per_trial)))
        trials = min(fitting, most) if most else fitting
        require(trials >= 1, f"cpus_per_trial is {cpus_per_trial:g}; the cluster has {cpus}")
        return Shares(trials, cpus_per_trial or cpus / trials, gpus_per_trial, gpus_per_trial)
    each = cpus_per_trial or float(cpus)
    require(1 <= each <= cpus, f"cpus_per_trial is {each:g}; the cluster has {cpus}, so give 1 to {cpus}")
    fitting = int(cpus / each)
    return Shares(min(fitting, most) if most else fitting, each, 0, 1)
