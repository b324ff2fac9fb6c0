"""Command lines made from config dataclasses: flags, --config FILE.yaml with the same names, help and errors.

It depends on no step. tyro parses; ours are the flat command line that several configs share, and the YAML.
"""

import dataclasses
import difflib
import os
import signal
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Annotated, Any, TypeVar, get_type_hints

import pyarrow as pa
import tyro

from curation import settings
from curation.console import say, warn
from curation.engine.config import DeviceConfig, JobConfig
from curation.store.filesystems import without_credentials

Config = TypeVar("Config")
Configs = tuple[type[Any], ...]
Fields = Mapping[str, tuple[type[Any], dataclasses.Field[Any]]]  # by name, each with its config
SIMILARITY_CUTOFF = 0.5  # of suggested names
INTERRUPTED, TERMINATED = 130, 143  # exit codes, as shells have them
STOPPED = "stopped; rerun the same command, and it resumes"


@dataclass(frozen=True)
class Command:
    """What a command is for, the configs that its flags fill (some depend on the flags), and what it does with them."""

    about: str
    configs: Callable[[Sequence[str]], Configs]
    work: Callable[..., None]
    computes: bool = False  # on a device that can be chosen
    raw: bool = False  # it takes its arguments as they are


def dispatch(package: str, commands: Mapping[str, Command], arguments: Sequence[str]) -> int:
    """Run one command and return the exit code: 0, 2 for an error of the user, 130 for Ctrl-C, 143 for SIGTERM."""
    name = command_named(package, commands, arguments)
    if isinstance(name, int):
        return name
    command = commands[name]
    try:
        if command.raw:
            command.work(arguments[1:])
        else:
            work(command, parse_command(package, name, command, arguments[1:]))
    except KeyboardInterrupt:
        return stopped(INTERRUPTED)
    except SystemExit as end:
        if end.code != signal.SIGTERM:  # see curation/engine/connect.py
            raise
        return stopped(TERMINATED)
    except Exception as error:
        if interrupted(error):
            return stopped(INTERRUPTED)
        return complain(error)
    return 0


def parse_command(package: str, name: str, command: Command, arguments: Sequence[str]) -> list[Any]:
    """The configs that a command's flags fill, as `parse_flags`; the last of one that `computes` is a DeviceConfig.

    What `follow` and `stop` are for, a job, needs no flag.
    """
    configs = (*command.configs(arguments), *((DeviceConfig,) if command.computes else ()))
    if configs == (JobConfig,) and arguments and not arguments[0].startswith("-"):
        arguments = [f"--job={arguments[0]}", *arguments[1:]]
    return parse_flags(f"{package} {name}", command.about, configs, arguments)


def work(command: Command, configs: list[Any]) -> None:
    """Do a command's work on its configs; the last of one that `computes` says on which device."""
    if not command.computes or configs[-1].device == "auto":  # which Ray need not be loaded for
        command.work(*configs[: len(configs) - command.computes])
        return
    with import_module("curation.engine.accelerators").using(configs[-1].device):
        command.work(*configs[:-1])


def stopped(code: int) -> int:
    """Leave Ray, which may still report tasks that were ended, then print what a stopped command says; the code."""
    if leave := getattr(sys.modules.get("ray"), "shutdown", None):  # missing where its import was interrupted
        leave()
    print(STOPPED, file=sys.stderr)
    return code


def interrupted(error: BaseException | None) -> bool:
    """Whether Ctrl-C caused an error: Python 3.11 wraps it when it interrupts the body of a class, as in an import."""
    return error is not None and (isinstance(error, KeyboardInterrupt) or interrupted(error.__cause__))


def parse_flags(name: str, about: str, configs: Sequence[type[Any]], arguments: Sequence[str]) -> list[Any]:
    """Return one instance of each of `configs`, all filled from one flat set of flags (and a YAML file).

    Fields of the same name in several configs are one flag. A repeatable flag also takes several values, and has a
    plural: --seeds 1, --dataset A --dataset B, --datasets A B. Exits with code 2 on a wrong command line; ValueError
    for a value that a config refuses.
    """
    arguments = without_secrets(arguments)
    fields = {field.name: (config, field) for config in reversed(configs) for field in dataclasses.fields(config)}
    repeated = {name for name, (_, field) in fields.items() if is_repeated(field)}
    arguments = spread(arguments, fields, repeated)
    check_flags(arguments, sorted(fields))
    from_file, flags = defaults(arguments, fields, repeated)
    made = [flag_of(*fields[key], from_file.get(key, dataclasses.MISSING)) for key in field_names(configs)]
    flat = dataclasses.make_dataclass(name.replace(" ", "_"), made, kw_only=True)
    values = vars(tyro.cli(flat, prog=f"python -m {name}", description=about, args=flags))
    return [
        config(**{field.name: without_secrets(values[field.name]) for field in dataclasses.fields(config)})
        for config in configs
    ]


def without_secrets(value: Any) -> Any:
    """A value, or each of several, without credentials in addresses. ValueError as `without_credentials`."""
    if isinstance(value, (list, tuple)):
        return type(value)(map(without_secrets, value))
    if not isinstance(value, str):
        return value
    clean = without_credentials(value)
    if clean != value and (
        "RAY_ADDRESS" in os.environ or ("ray" in sys.modules and sys.modules["ray"].is_initialized())
    ):
        warn(
            f"the credentials in the address {clean} were moved to the environment of this process; Ray's workers were "
            "started before, so AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY must be in their environment too"
        )
    return clean


def field_names(configs: Sequence[type[Any]]) -> list[str]:
    """The names of all fields, each once, in the order in which they first appear."""
    return list(dict.fromkeys(field.name for config in configs for field in dataclasses.fields(config)))


def flag_of(config: type[Any], field: dataclasses.Field[Any], override: Any = dataclasses.MISSING) -> settings.Field:
    """Name, annotated type and default of a field as tyro reads them; a tuple becomes a repeatable flag.

    `override`, where given, replaces the default.
    """
    hint = get_type_hints(config)[field.name]
    repeated = (tyro.conf.UseAppendAction,) if is_repeated(field) else ()
    notes = (tyro.conf.arg(help=field.metadata["help"]), *repeated)
    annotated: Any = Annotated.__class_getitem__((hint, *notes))  # type: ignore[attr-defined]
    default = field.default if override is dataclasses.MISSING else override
    made: Any = dataclasses.field() if default is dataclasses.MISSING else dataclasses.field(default=default)
    return field.name, annotated, made


def is_repeated(field: dataclasses.Field[Any]) -> bool:
    """Whether a field's flag is repeatable: such a field is empty by default, or has no default."""
    return field.default == () or field.name == "source"


def spread(arguments: Sequence[str], fields: Collection[str], repeated: Collection[str]) -> list[str]:
    """Put a flag of its own before each value of the `repeated` flags or their plurals."""
    made: list[str] = []
    flag, bare = "", False  # the repeated flag whose values follow, and whether its first value is still to come
    for argument in arguments:
        if argument.startswith("--"):
            given, equals, value = argument.partition("=")
            name = singular(given.removeprefix("--").replace("-", "_"), fields, repeated)
            flag = f"--{name.replace('_', '-')}" if name is not None and name in repeated else ""
            bare = not equals
            made.append(f"{flag or given}{equals}{value}")
        else:
            made.append(f"{flag}={argument}" if flag and not bare else argument)
            bare = False
    return made


def defaults(arguments: Sequence[str], fields: Fields, repeated: Collection[str]) -> tuple[dict[str, Any], list[str]]:
    """Defaults from a `--config` file, for fields whose flags are not given; and the arguments without `--config`.

    ValueError: no such file, not a mapping, a name that no flag has (with the nearest that exists) or that is there
    twice, or a value of another type.
    """
    path, rest = settings.config_path(arguments)
    if path is None:
        return {}, rest
    found = settings.by_field(settings.read_yaml(path), path, lambda name: singular(name, fields, repeated))
    for name in found:
        if name not in fields:
            raise ValueError(f"--config {path} has an unknown name {name!r}; {nearest_name(name, sorted(fields))}")
    given = {field_named(flag) for flag in rest if flag.startswith("--")}
    unset = {name: node for name, node in found.items() if name not in given}
    return settings.values(unset, {name: flag_of(*fields[name]) for name in unset}, repeated, path), rest


def field_named(flag: str) -> str:
    """The field that a flag names."""
    return flag.partition("=")[0].removeprefix("--no-").removeprefix("--").replace("-", "_")


def singular(name: str, fields: Collection[str], repeated: Collection[str]) -> str | None:
    """The field of a name, or of the plural of a repeatable one; None where there is none."""
    if name in fields:
        return name
    return name.removesuffix("s") if name.removesuffix("s") in repeated else None


def check_flags(arguments: Sequence[str], names: list[str]) -> None:
    """ValueError, with the nearest flag that exists, for a flag that no config has."""
    for flag in arguments:
        key = field_named(flag)
        if flag.startswith("--") and key not in (*names, "config", "help"):
            raise ValueError(f"there is no flag {flag.split('=')[0]}; {nearest_name(key, names, '--')}")


def nearest_name(key: str, names: list[str], prefix: str = "") -> str:
    """A hint: the name that was probably meant, or all that exist."""
    near = difflib.get_close_matches(key, names, 1, SIMILARITY_CUTOFF)
    shown = [prefix + (name.replace("_", "-") if prefix else name) for name in near or names]
    return f"did you mean {shown[0]}?" if near else f"expected one of {', '.join(shown)}"


def command_named(package: str, commands: Mapping[str, Any], arguments: Sequence[str]) -> str | int:
    """The command that comes first in `arguments`; for help or an unknown one the exit code, after printing the list.

    Each of `commands` has a line `about`.
    """
    name = arguments[0] if arguments else "--help"
    if name in commands:
        return name
    if name in ("-h", "--help"):
        print(overview(package, commands))
        return 0
    near = difflib.get_close_matches(name, commands, 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    print(f"error: no command {name!r}{hint}\n\n{overview(package, commands)}", file=sys.stderr)
    return 2


def overview(package: str, commands: Mapping[str, Any]) -> str:
    """The list of a package's commands, with what each is for."""
    lines = [f"  {name:9} {command.about}" for name, command in commands.items()]
    return "\n".join(
        [
            f"usage: python -m {package} COMMAND [--help] [--config FILE.yaml] [flags]",
            "",
            *lines,
            "",
            "Each command takes its flags from the command line, or by the same names from a YAML file; flags win.",
            "Repeatable flags take several values: --dataset A --dataset B, or --datasets A B.",
        ]
    )


def complain(error: BaseException) -> int:
    """Print an error that the user can fix and return 2, or 1 where Ray failed; raise anything else again."""
    errors = import_module("curation.engine.errors") if "ray" in sys.modules else None  # Ray takes seconds
    cause = errors.cause_of(error) if errors else error
    if isinstance(cause, (ValueError, OSError, pa.ArrowInvalid)):
        say("error", str(cause))
        return 2
    if errors and errors.is_of_ray(error):
        say("error", f"Ray failed ({error}). Rerun the same command: it resumes.")
        return 1
    raise error
