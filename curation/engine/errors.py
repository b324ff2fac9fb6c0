"""The cause of an error that Ray raises, and whether Ray itself failed."""

import ray


def cause_of(error: BaseException) -> BaseException:
    """The error that a task or a Ray Data operator wraps, or the error itself."""
    while isinstance(error, ray.exceptions.RayTaskError) and error.cause is not None:
        error = error.cause
    inner = error.__cause__
    wrapped = type(error).__name__ in ("UserCodeException", "SystemException")
    return cause_of(inner) if wrapped and inner is not None else error


def is_of_ray(error: BaseException) -> bool:
    """Whether Ray failed (a node, a worker, its object store), and not the code that it ran."""
    return isinstance(error, ray.exceptions.RayError) and not isinstance(error, ray.exceptions.RayTaskError)
