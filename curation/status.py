"""How far a run is, read from its directory alone: from any machine, also while another process works on it.

It writes nothing and holds nothing. Rates and times left are of the parts that are there, by the times at which they
were written; a part that is being made is not seen. It does not use Ray.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass

from curation.options import require
from curation.store import chain, claims, leases
from curation.store.config import StatusConfig
from curation.store.directory import RunDirectory
from curation.store.markers import read_record
from curation.store.parts import part_number

ITERATIONS = "clusters/iterations"


@dataclass(frozen=True, kw_only=True)
class Progress:
    """One step: `done` of `total` (None: unknown) of its `unit`, and when its last part was written, UTC seconds."""

    step: str
    state: str  # done, begun
    done: int
    total: int | None
    unit: str
    rejected: int = 0
    rate: float | None = None  # units a second
    written: float | None = None

    @property
    def left_s(self) -> float | None:
        """Seconds until the step is done at this rate; None where that is unknown."""
        if self.state == "done" or self.total is None or not self.rate:
            return None
        return max(0, self.total - self.done) / self.rate


def status(config: StatusConfig) -> str:
    """A table of the steps, and who holds the run. ValueError where there is no run."""
    run = RunDirectory(config.run_dir)
    require(run.exists("run.json"), f"{run.uri} holds no run: there is no run.json in it; give the run's directory")
    steps = list(progress_of(run))
    now = time.time()
    counts = f"{'done':>12}{'of':>12}  {'unit':<10}{'rejected':>9}"
    lines = [f"{'step':<20}{'state':<7}{counts}{'per s':>9}{'left':>9}{'last':>10}"]
    lines += [line(step, now) for step in steps]
    return "\n".join([*lines, *holders(run, now), f"run: {run.uri}"])


def progress_of(run: RunDirectory) -> Iterator[Progress]:
    """The steps that were begun, in their order."""
    begun = read_record(run)["steps"]
    for folder in sorted({*chain.step_folders(run), *begun}, key=chain.by_step):
        marker = chain.read_marker(run, folder)
        if marker is not None:
            spent = marker["seconds"]
            yield Progress(
                step=marker["step"] if marker["step"] != "select" else folder,
                state="done",
                done=marker["rows_in"],
                total=marker["rows_in"],
                unit="frames",
                rejected=marker["rejected"],
                rate=marker["rows_in"] / spent if spent else None,
                written=max(run.written(folder).values(), default=None),
            )
        elif folder in begun:
            yield under_way(run, folder, begun[folder]["config"])


def under_way(run: RunDirectory, folder: str, config: dict[str, object]) -> Progress:
    """A step without a marker, by the parts that it has written so far."""
    name = chain.COMMAND_OF[chain.step_of(folder)]
    place = ITERATIONS if folder == "clusters" and not run.parts("clusters/assignments") else folder
    place = "clusters/assignments" if folder == "clusters" and place == folder else place
    times = sorted(at for path, at in run.written(place).items() if part_number(path) is not None)
    total: int | None = None
    if place == ITERATIONS:
        total = int(str(config["iterations"])) + 1  # the seeds are there too
    elif folder == "embeddings":
        total = len(run.parts("frames"))
    elif place == "clusters/assignments":
        total = len(run.parts("embeddings"))
    rejected = [path for path in run.names("rejected") if part_number(path, name) is not None]
    spent = times[-1] - times[0] if len(times) > 1 else 0.0
    return Progress(
        step=name,
        state="begun",
        done=len(times),
        total=total,
        unit="iterations" if place == ITERATIONS else "parts",
        rejected=sum(run.rows(f"rejected/{path}") for path in rejected),
        rate=(len(times) - 1) / spent if spent else None,
        written=times[-1] if times else None,
    )


def line(step: Progress, now: float) -> str:
    """A step as a row of the table."""
    counts = f"{step.done:>12}{'?' if step.total is None else step.total:>12}  {step.unit:<10}{step.rejected:>9}"
    rate = "-" if step.rate is None else f"{step.rate:.3g}"
    left = "-" if step.left_s is None else spell(step.left_s)
    last = "-" if step.written is None else f"{spell(now - step.written)} ago"
    return f"{step.step:<20}{step.state:<7}{counts}{rate:>9}{left:>9}{last:>10}"


def spell(seconds: float) -> str:
    """A duration with one unit."""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f}{unit}"
    return f"{max(0, seconds):.0f}s"


def holders(run: RunDirectory, now: float) -> Iterator[str]:
    """Who holds the run, a line each; a claim whose heartbeat stopped is said to be stale."""
    found = False
    if run.exists(leases.LOCK):
        owner = claims.read_owner(run.read_bytes(leases.LOCK))
        if owner is not None and owner.alive is not False:
            found = True
            yield f"held by {owner}"
    for claim in claims.standing(run):
        found = True
        alive = now - claim.beat <= claims.EXPIRY_S
        yield f"held by {claim.owner}, heartbeat {spell(now - claim.beat)} ago{'' if alive else ' (stale: it is free)'}"
    if not found:
        yield "held by nobody"
