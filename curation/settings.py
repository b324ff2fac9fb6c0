"""The settings of a `--config` file, as the flags of the same names would have them. It depends on no step.

A value reaches the parser of the flags as it is written, so that 1e-3, 0123, no or a date mean the same in both; only
true and false, null and lists are YAML's.
"""

import contextlib
import dataclasses
import io
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, get_args, get_origin

import tyro
import yaml

BOOLEANS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
BOOLEAN, NULL = "tag:yaml.org,2002:bool", "tag:yaml.org,2002:null"
Field = tuple[str, Any, Any]  # name, annotated type and default, as dataclasses.make_dataclass takes them
Settings = dict[str, yaml.Node]


def config_path(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """The file that `--config` names, if any, and the other arguments. ValueError: given twice, or without a name."""
    paths, rest = list[str](), list[str]()
    left = iter(arguments)
    for argument in left:
        flag, equals, value = argument.partition("=")
        if flag != "--config":
            rest.append(argument)
            continue
        paths.append(value if equals else next(left, ""))
        if not paths[-1] or (not equals and paths[-1].startswith("--")):
            raise ValueError("--config needs the name of a YAML file")
    if len(paths) > 1:
        raise ValueError(f"--config is given {len(paths)} times ({', '.join(paths)}); put all settings into one file")
    return (paths[0] if paths else None), rest


def read_yaml(path: str) -> Settings:
    """The settings of a YAML file by name, with dashes turned into underscores.

    ValueError: a file that cannot be read or is not a mapping, or a name that is there twice.
    """
    try:
        with open(path, "rb") as file:
            loader = yaml.SafeLoader(file.read())
        node = loader.get_single_node()
        own = [key for key, _ in node.value] if isinstance(node, yaml.MappingNode) else []
        if isinstance(node, yaml.MappingNode):
            loader.flatten_mapping(node)
    except (OSError, yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"--config {path} cannot be read: {error}") from error
    if node is None or node.tag == NULL:
        return {}
    if not isinstance(node, yaml.MappingNode):
        kind = "list" if isinstance(node, yaml.SequenceNode) else "single value"
        raise ValueError(f"--config {path} holds a {kind}, expected names with values")
    names = [field_name(key) for key in own]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"--config {path} has {', '.join(twice)} more than once; leave one of them")
    return {field_name(key): value for key, value in node.value}


def field_name(key: yaml.Node) -> str:
    """A key as the name of a field."""
    return str(key.value).replace("-", "_")


def flag_value(arguments: Sequence[str], name: str) -> str | None:
    """The value of a setting in the flags, else in the `--config` file; None where neither has it."""
    path, rest = config_path(arguments)
    found = None
    for place, argument in enumerate(rest):
        flag, equals, value = argument.partition("=")
        if flag.replace("_", "-") == f"--{name.replace('_', '-')}":
            found = value if equals else "".join(rest[place + 1 : place + 2])
    if found is None and path is not None:
        node = read_yaml(path).get(name)
        found = node.value if isinstance(node, yaml.ScalarNode) and node.tag != NULL else None
    return found


def by_field(settings: Settings, path: str, single: Callable[[str], str | None]) -> Settings:
    """Settings by field; `single` turns a name or its plural into the field's. ValueError where both are given."""
    named: Settings = {}
    for name, node in settings.items():
        field = single(name) or name
        if field in named:
            raise ValueError(f"--config {path} has {field} more than once, as {name}; leave one of them")
        named[field] = node
    return named


def values(settings: Settings, fields: Mapping[str, Field], repeated: Collection[str], path: str) -> dict[str, Any]:
    """The settings' values, of the fields' types. ValueError, naming the file and the name, for one of another type.

    Null is the default, or None where a field can be None.
    """
    found = {}
    for name, node in settings.items():
        try:
            found[name] = value_of(node, fields[name], name in repeated)
        except ValueError as error:
            raise ValueError(f"--config {path}: {name} is {shown(node)}; expected {error}") from error
    return {name: value for name, value in found.items() if value is not dataclasses.MISSING}


def value_of(node: yaml.Node, field: Field, repeated: bool) -> Any:
    """One value, by the parser of the flags; MISSING for the default. ValueError, with what was expected."""
    name, hint, default = field
    kind = hint.__origin__
    if node.tag == NULL:
        return None if type(None) in get_args(kind) else dataclasses.MISSING
    if kind is bool:
        if isinstance(node, yaml.ScalarNode) and node.tag == BOOLEAN:
            return BOOLEANS[node.value.lower()]
        raise ValueError("true or false")
    texts = texts_of(node, kind)
    flag = f"--{name.replace('_', '-')}"
    several = isinstance(node, yaml.SequenceNode) and not repeated
    arguments = [flag, *texts] if several else [f"{flag}={text}" for text in texts]
    if repeated and not texts:
        return ()
    one = dataclasses.make_dataclass("Setting", [(name, hint, default)], kw_only=True)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return getattr(tyro.cli(one, args=arguments, console_outputs=False), name)
    except SystemExit as error:
        raise ValueError(words(kind)) from error


def texts_of(node: yaml.Node, kind: Any) -> list[str]:
    """The words of a value as a command line has them. ValueError for what no flag takes."""
    if isinstance(node, yaml.ScalarNode):
        return [node.value]
    items = node.value if isinstance(node, yaml.SequenceNode) else [node]
    if not all(isinstance(item, yaml.ScalarNode) and item.tag != NULL for item in items):
        raise ValueError(words(kind))
    if get_origin(kind) is not tuple:
        raise ValueError(words(kind))
    return [item.value for item in items]


def words(kind: Any) -> str:
    """A type as an error names it."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is tuple:
        several = "a list of " if inner[-1] is Ellipsis else f"a list of {len(inner)}: "
        return several + words(inner[0])
    if inner:
        return " or ".join(dict.fromkeys(words(each) for each in inner))
    if isinstance(kind, str):
        return kind
    known = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "null"}
    return known.get(kind, str(kind))


def shown(node: yaml.Node) -> str:
    """A value as an error quotes it."""
    if isinstance(node, yaml.ScalarNode):
        return repr(node.value)
    if isinstance(node, yaml.SequenceNode):
        return f"[{', '.join(item.value if isinstance(item, yaml.ScalarNode) else '...' for item in node.value)}]"
    return "names with values"
