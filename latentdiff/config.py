"""YAML and `key=value` overrides -> validated, frozen sections.

Each package declares its section as a `Section` subclass with a docstring under every field; this
module knows none of them. pydantic validates; this module adds reading YAML, "did you mean", and
the reference table made from the docstrings.
"""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from functools import reduce
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from latentdiff.errors import ConfigError, UserError

S = TypeVar("S", bound="Section")

Values = dict[str, Any]
"""A mapping of plain values as in YAML and JSON: text, numbers, lists and mappings."""


class Section(BaseModel):
    """A frozen group of settings. Unknown keys are errors; field docstrings are the reference."""

    old_names: ClassVar[Mapping[str, str]] = {}
    """Names that fields had before -> those of today; files and run directories may use either."""

    method_key: ClassVar[str | None] = None
    """The field that selects a method, in a section where methods read different fields."""

    @classmethod
    def method_fields(cls) -> frozenset[str]:
        """The fields that some methods read and others do not; `inner.field` for those of a section
        inside this one."""
        return frozenset(cls.model_fields) - {cls.method_key}

    def read_by_method(self) -> frozenset[str]:
        """The members of `method_fields` that the chosen method reads."""
        return self.method_fields()

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        validate_default=True,
        allow_inf_nan=False,
    )


class _Loader(yaml.SafeLoader):
    """YAML in which a duplicate key is an error, instead of the last one silently winning."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = key_node.value
            if key in seen:
                line = key_node.start_mark.line + 1
                raise yaml.constructor.ConstructorError(
                    None, None, f"duplicate key '{key}' (line {line})", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> Values:
    """The mapping in a YAML file; an empty file is an empty mapping.

    Raises UserError if the file is missing, unreadable, not YAML, or not a mapping.
    """
    try:
        loaded = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except FileNotFoundError:
        raise UserError(
            f"no config file at {path}", do_this="write one with `latentdiff config init`."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the config file {path}", why=str(error)) from error
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML", why=str(error)) from error
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise UserError(
            f"{path} is not a config file",
            why=f"it holds a {type(loaded).__name__}, not sections such as `training:`",
        )
    return loaded


def parse_overrides(words: Iterable[str]) -> Values:
    """`["training.steps=20000"]` -> `{"training": {"steps": 20000}}`; values are YAML."""
    tree: Values = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise UserError(
                f"cannot understand '{word}'",
                why="only key=value settings may follow the options",
                do_this="write for example training.steps=20000; --help lists the options.",
            )
        try:
            value = yaml.load(text, Loader=_Loader)
        except yaml.YAMLError as error:
            raise UserError(f"cannot read the value of '{word}'", why=str(error)) from error
        *parents, leaf = key.replace("-", "_").split(".")
        branch = tree
        for parent in parents:
            branch = branch.setdefault(parent, {})
            if not isinstance(branch, dict):
                raise UserError(f"'{word}' contradicts an earlier setting of '{parent}'")
        branch[leaf] = value
    return tree


def merge(*layers: Mapping[str, Any]) -> Values:
    """Merge nested mappings; the last one wins, and lists are replaced, not joined."""
    result: Values = {}
    for layer in layers:
        for key, value in layer.items():
            below = result.get(key)
            both = isinstance(below, Mapping) and isinstance(value, Mapping)
            result[key] = merge(below, value) if both else value  # type: ignore[arg-type]
    return result


def with_current_names(
    section: type[Section], values: Mapping[str, Any], source: str = "config"
) -> Values:
    """`values` with today's names of settings, for a layer that is to be merged with others.

    Raises ConfigError for a setting that is given by both names.
    """
    renamed: Values = {}
    for key, value in values.items():
        name, nested = section.old_names.get(key, key), _nested(section, key)
        if name in renamed or (name != key and name in values):
            raise ConfigError([f"{key} is the old name of {name}: give one of them"], source)
        inside = nested is not None and isinstance(value, Mapping)
        renamed[name] = with_current_names(nested, value, source) if inside else value  # type: ignore[arg-type]
    return renamed


def build(
    section: type[S],
    values: Mapping[str, Any],
    source: str = "config",
    given: Mapping[str, Any] | None = None,
) -> S:
    """`values` as a validated `section`.

    `given`: the part of `values` that the user asks for now. Settings there must be read by the
    method that they belong to; elsewhere, as in a run's own config.yaml, every setting has some
    value. Raises ConfigError naming every unknown key, wrong type, impossible value and unread
    setting at once.
    """
    # A section left empty in YAML (`training:`) arrives as None and means "all defaults".
    values = with_current_names(section, values, source)
    given = with_current_names(section, given or {}, source)
    filled = {key: {} if _nested(section, key) and v is None else v for key, v in values.items()}
    problems = unread(section, filled, given)
    try:
        built = section.model_validate(filled)
    except ValidationError as error:
        problems = [_explain(section, item) for item in error.errors()] + problems
    if problems:
        raise ConfigError(problems, source)
    return built


def unread(
    section: type[Section], values: Mapping[str, Any], given: Mapping[str, Any], prefix: str = ""
) -> list[str]:
    """A line for each setting in `given` that the method chosen in `values` does not read.

    `given` is a part of `values`. A setting at its default is no problem. Sections that are not
    valid are left out: `build` reports them.
    """
    problems = []
    for key, inner in given.items():
        nested = _nested(section, key)
        if nested is not None and isinstance(inner, Mapping):
            problems += unread(nested, values[key], inner, f"{prefix}{key}.")
    if section.method_key is None:
        return problems
    try:
        built = section.model_validate(values)
    except ValidationError:
        return problems
    method = f"{prefix}{section.method_key}={_method_name(getattr(built, section.method_key))}"
    read = built.read_by_method()
    own = ", ".join(sorted({name.partition(".")[0] for name in read})) or "no setting of its own"
    for name, value in _leaves(section, given):
        if name not in section.method_fields() - read:
            continue
        default = _default(section, name)
        if reduce(getattr, name.split("."), built) != default:
            problems.append(
                f"{prefix}{name}: not read by {method}, which reads {own}; "
                f"leave it at its default, {_yaml_word(default)} (got {value!r})"
            )
    return problems


def _method_name(chosen: object) -> str:
    """A method, or the methods, as one would type them."""
    return (",".join(chosen) or "none") if isinstance(chosen, tuple) else str(chosen)


def _leaves(section: type[Section], given: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of every setting that is no section."""
    for key, value in given.items():
        nested = _nested(section, key)
        if nested is not None and isinstance(value, Mapping):
            yield from ((f"{key}.{name}", inner) for name, inner in _leaves(nested, value))
        else:
            yield key, value


def _default(section: type[Section], name: str) -> object:
    """The default of a setting by its dotted name."""
    key, _, rest = name.partition(".")
    default = section.model_fields[key].get_default(call_default_factory=True)
    return reduce(getattr, rest.split("."), default) if rest else default


def to_yaml(section: Section) -> str:
    """The section as YAML; `read_yaml` and `build` turn it back into an equal section."""
    return yaml.safe_dump(section.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def reference(section: type[Section], prefix: str = "") -> list[tuple[str, str, str, str]]:
    """Rows (key, type, default, meaning) of every setting, from the field docstrings."""
    rows = []
    for name, field in section.model_fields.items():
        inner = _section_in(field.annotation)
        if inner is not None:
            rows += reference(inner, f"{prefix}{name}.")
            continue
        value = field.get_default(call_default_factory=True)
        meaning = " ".join((field.description or "").split())
        rows.append((prefix + name, _type_name(field.annotation), _yaml_word(value), meaning))
    return rows


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """A line `key: old -> new` for every leaf that differs between two dumped sections."""
    lines = []
    for key in [*old, *(k for k in new if k not in old)]:
        a, b = old.get(key), new.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            lines += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            lines.append(f"{prefix}{key}: {a} -> {b}")
    return lines


def catalogue(summaries: Mapping[str, str]) -> str:
    """The description of a setting that names a method: each name with its summary."""
    return " ".join(f"{name}: {summary}." for name, summary in summaries.items())


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`"; did you mean 'x'?"`, or an empty string if no known word is close."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else ""


def _explain(section: type[Section], item: ErrorDetails) -> str:
    """One line for one pydantic error, with the key as the user would type it."""
    path = [str(part) for part in item["loc"]]
    key = ".".join(path)
    if item["type"] == "extra_forbidden":
        *parents, last = path
        owner = section
        for parent in parents:
            # Keys of mappings and indices of lists are no fields; `owner` is their Section already.
            if parent in owner.model_fields:
                owner = _section_in(owner.model_fields[parent].annotation) or owner
        return f"{key}: unknown key{did_you_mean(last, owner.model_fields)}"
    message = item["msg"].removeprefix("Value error, ")
    return f"{key}: {message} (got {item['input']!r})" if key else message


def _section_in(annotation: object) -> type[Section] | None:
    """The Section class in an annotation such as `X` or `X | None`; None if there is none."""
    candidates = typing.get_args(annotation) or (annotation,)
    for candidate in candidates:
        # Python 3.10 takes `tuple[int]` for a type.
        plain = isinstance(candidate, type) and typing.get_origin(candidate) is None
        if plain and issubclass(candidate, Section):
            found: type[Section] = candidate
            return found
    return None


def _nested(section: type[Section], key: str) -> type[Section] | None:
    """The Section class of a field; None for another field, and for a key that is none."""
    field = section.model_fields.get(key)
    return None if field is None else _section_in(field.annotation)


def _yaml_word(value: object) -> str:
    return yaml.safe_dump(value, default_flow_style=True).split("\n...")[0].strip()


def _type_name(annotation: object) -> str:
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return " | ".join(str(arg) for arg in args)
    if origin in (typing.Union, types.UnionType):
        return " | ".join("null" if arg is type(None) else _type_name(arg) for arg in args)
    if origin is typing.Annotated:
        return _type_name(args[0])
    if origin is not None:
        inner = ", ".join(_type_name(arg) for arg in args if arg is not Ellipsis)
        return f"{origin.__name__}[{inner}]"
    return getattr(annotation, "__name__", str(annotation))
