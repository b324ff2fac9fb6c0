"""Building blocks of configs: fields with their help, shared checks, and the digest of what shapes a result.

A field's `hashed` says whether it shapes the result. Fields that only say where and how fast (run directory,
workers, limits) are not hashed, so they may differ between two calls on one run directory.
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING
from typing import Any, get_type_hints


def option(text: str, default: Any = MISSING, *, hashed: bool = True) -> Any:
    """A dataclass field with its help text; `hashed=False` for what does not shape the result."""
    return dataclasses.field(default=default, metadata={"help": text, "hashed": hashed})


def flags_of(name: str, config: Any, naming: Callable[[str], str | None]) -> type[Any]:
    """Return a class with the fields of a config under other names, without those for which `naming` returns None."""
    hints = get_type_hints(config)
    made = [
        (renamed, hints[field.name], option(field.metadata["help"], field.default, hashed=field.metadata["hashed"]))
        for field in dataclasses.fields(config)
        if (renamed := naming(field.name)) is not None
    ]
    return dataclasses.make_dataclass(name, made, frozen=True, kw_only=True)


def require(condition: bool, message: str) -> None:
    """Raise ValueError with `message`, which says what was found, what was expected and what to do."""
    if not condition:
        raise ValueError(message)


def run_dir_option() -> Any:
    """The field every step has: where the run's tables are."""
    return option("The run's directory: a local path or an object-storage URI.", hashed=False)


def check_common(config: Any) -> None:
    """Check the fields that several steps share: max_rejected, epsilon, d and seed."""
    for name in ("max_rejected", "epsilon", "d", "seed"):
        value = getattr(config, name, None)
        limits = {"max_rejected": (0.0, 1.0), "epsilon": (0.0, 2.0), "d": (-1.0, 1.0), "seed": (0, 2**63 - 1)}
        low, high = limits[name]
        require(value is None or low <= value <= high, f"{name} is {value}; it must be between {low} and {high}")


def check_name(name: str) -> None:
    """Raise ValueError where a subset's name cannot be the name of a folder."""
    fits = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) is not None
    require(fits, f"name is {name!r}; it names a folder: letters, digits, '.', '_' and '-' only")


def hashed_fields(config: Any) -> dict[str, Any]:
    """The fields of `config` that shape the result, as JSON values.

    A config's `stands_for` resolves fields that were left open, so that giving a default explicitly changes nothing.
    """
    values = {f.name: getattr(config, f.name) for f in dataclasses.fields(config) if f.metadata["hashed"]}
    values |= getattr(config, "stands_for", {})
    result: dict[str, Any] = json.loads(json.dumps(values))
    return result


def changes(found: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """What differs between recorded settings and those of now, a clause for each name, sorted."""
    return [
        f"{name} was {found.get(name)!r}, now {expected.get(name)!r}"
        for name in sorted(found.keys() | expected.keys())
        if found.get(name) != expected.get(name)
    ]


def digest(value: Any) -> str:
    """SHA-256 (hex) of a JSON value, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
