"""How the trials of a sweep ended: finished, failed or halted. Written as trials end, so that a killed sweep keeps it.

A finished trial has a record below trials/. Others have an entry in ended.json, by the path that their record would
have: the `reason` of a failure; or, where halving ended it, `halts` (what was measured at each rung), and `halving` and
`read`: how it was judged.
"""

import sys
from collections.abc import Sequence
from typing import Any

from curation.options import hashed_fields
from curation.store.directory import RunDirectory
from tune.settings import SweepSettings
from tune.space import Candidate
from tune.trial import Reported, SweepJob, finished

FILE = "ended.json"


class Ledger:
    """The trials of a sweep by candidate, in one output."""

    def __init__(self, what: SweepSettings, job: SweepJob) -> None:
        self.what, self.job, self.output = what, job, RunDirectory(job.output)
        self.ended: dict[str, dict[str, Any]] = self.output.read_json(FILE) if self.output.exists(FILE) else {}
        self.paths: dict[str, str] = {}

    def due(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Those that neither finished nor were halted: any that failed, and new ones as far as max_trials allows."""
        missing, begun = [one for one in candidates if self.record(one) is None and not self.halts(one)], self.begun()
        new = [one for one in missing if self.path(one) not in begun]
        late = new[self.allowed() :]
        return [one for one in missing if one not in late]

    def begun(self) -> set[str]:
        """Paths of the trials that finished, failed or were halted in this output."""
        return finished(self.output) | self.ended.keys()

    def allowed(self) -> int:
        """How many more trials may be begun."""
        most = self.what.config.max_trials
        return max(0, most - len(self.begun())) if most is not None else sys.maxsize

    def path(self, one: Candidate) -> str:
        """Where the record of a candidate's trial is kept."""
        if one.trained not in self.paths:
            self.paths[one.trained] = self.job.path(one)
        return self.paths[one.trained]

    def record(self, one: Candidate) -> Reported | None:
        """The record of the finished trial of a candidate, if there is one."""
        return self.output.read_json(self.path(one)) if self.output.exists(self.path(one)) else None

    def reason(self, one: Candidate) -> str:
        """Why the trial of a candidate failed; empty where it did not."""
        return str(self.ended.get(self.path(one), {}).get("reason", ""))

    def halts(self, one: Candidate) -> list[Reported]:
        """What a halted candidate reported at its rungs; none where another halving or NormDEL stopped it."""
        entry = self.ended.get(self.path(one), {})
        return self.job.rungs(one, entry) if entry.get("read") == self.read else []

    def rungs(self, one: Candidate) -> list[Reported]:
        """What a finished or halted candidate reported at its rungs."""
        record = self.record(one)
        return self.halts(one) if record is None else self.job.rungs(one, record)

    @property
    def read(self) -> list[Any]:
        """The settings of NormDEL."""
        return [self.what.question.alpha, self.what.question.reading]

    def note(self, one: Candidate, reports: Sequence[Reported], reason: str) -> None:
        """Record how a trial ended: it finished, it failed for a reason, or halving stopped it."""
        path = self.path(one)
        if self.record(one) is not None:
            if self.ended.pop(path, None) is None:
                return
        elif reason:
            self.ended[path] = {"reason": reason}
        elif reports:
            self.ended[path] = {
                "halts": list(reports),
                "halving": hashed_fields(self.what.halving),
                "read": self.read,
            }
        else:
            return
        self.output.write_json(FILE, self.ended)
