"""Tasks that keep account of what they took."""

import time

import pytest
import ray

from curation.engine.resources import memory
from curation.engine.tasks import Account, Task

pytestmark = pytest.mark.usefixtures("local_ray")


def compute(seconds: float) -> int:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
    return 1


def wait(seconds: float) -> tuple[int, int]:
    time.sleep(seconds)
    return 2, 3


def fail() -> None:
    raise RuntimeError("on purpose")


def test_results_and_what_they_took() -> None:
    account = Account()
    ones = [Task(compute, "computing").remote(0.3) for _ in range(2)]
    two, three = Task(wait, "waiting", num_returns=2).remote(0.2)
    assert ray.get([*ones, two, three]) == [1, 1, 2, 3]
    with pytest.raises(RuntimeError, match="on purpose"):
        ray.get(Task(fail, "failing").remote())
    assert "% of the time of 2 CPUs" in account.verdict()
    spent = {work.what: usage for work, usage in account.spent.items()}
    assert spent.keys() == {"computing", "waiting"}
    assert 0.6 <= spent["computing"].cpu_s < 0.8
    assert spent["computing"].wall_s >= 0.6
    assert spent["waiting"].wall_s >= 0.2
    assert spent["waiting"].cpu_s < 0.1
    assert not account.pending


def test_without_tasks_there_is_no_verdict() -> None:
    account = Account()
    assert account.verdict() == ""


def test_no_task_declares_more_memory_than_a_node_has() -> None:
    assert memory(2**60) == memory(2**61) < 2**60
    assert memory(1000) == 1000
    Account()
    assert ray.get(Task(compute, "computing", memory=2**60).remote(0.0)) == 1
