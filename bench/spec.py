"""Spelling <-> object: ``Mixup(alpha=0.2)`` of methods/mixup.py is spelled ``mixup,alpha=0.2``.

A package's folder is its registry: one file per method or task, the file's name is its name.
A dotted name is a module kept elsewhere.
"""

import importlib
import importlib.util
import json
import pkgutil
from collections.abc import Iterable, Sequence
from dataclasses import Field, asdict, fields, replace
from difflib import get_close_matches
from types import ModuleType, NoneType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

T = TypeVar("T")

FOLDER = "folder:"
"""Before the path of images of the user's own, in the name of a setting or of a set of images."""


class BadInput(ValueError):
    """One line for the user: what is wrong, and what would be right."""


def counted(number: float, thing: str) -> str:
    """So many of a thing."""
    return f"{number:g} {thing}{'' if number == 1 else 's'}"


def one_line(error: BaseException) -> str:
    """The first line of what an error says, after its kind if that is not for the user."""
    said = (str(error).splitlines() or [""])[0]
    return said if isinstance(error, BadInput) else f"{type(error).__name__}: {said}"


def choose(name: str, among: Iterable[str], what: str) -> str:
    """``name`` itself. Raises BadInput, with the nearest names, if it is not ``among`` them."""
    known = sorted(among)
    if name in known:
        return name
    near = get_close_matches(name, known, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(known)}"
    raise BadInput(f"no {what} {name!r}; {hint}")


def names(package: str) -> list[str]:
    """The modules of a package that are not private. The package is not imported."""
    found = importlib.util.find_spec(package)
    folders = found.submodule_search_locations if found else None
    modules = pkgutil.iter_modules(list(folders or ()))
    return sorted(module.name for module in modules if not module.name.startswith("_"))


def find(name: str, package: str, base: type[T]) -> type[T]:
    """The one public subclass of ``base`` that a module defines."""
    module = _import(name, package)
    found = [
        thing
        for thing in vars(module).values()
        if isinstance(thing, type)
        and issubclass(thing, base)
        and thing.__module__ == module.__name__
        and not thing.__name__.startswith("_")
    ]
    if len(found) != 1:
        listed = ", ".join(kind.__name__ for kind in found) or "none"
        raise BadInput(f"{name} must define one public {base.__name__}; it has {listed}")
    return found[0]


def _import(name: str, package: str) -> ModuleType:
    if "." not in name:
        choose(name, names(package), package.rpartition(".")[2].removesuffix("s"))
        return importlib.import_module(f"{package}.{name}")
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:  # whatever a module of the user's own may raise
        raise BadInput(f"{name} can't be imported: {one_line(error)}") from error


def parse(text: str, package: str, base: type[T]) -> T:
    """Build what ``text`` spells. Raises BadInput."""
    name, *settings = text.split(",")
    kind = find(name, package, base)
    try:
        default = kind()
    except (TypeError, ValueError) as error:
        raise BadInput(f"{name}: every field needs a default ({one_line(error)})") from None
    return override(default, settings, text)


def override(default: T, settings: Sequence[str], text: str) -> T:
    """A copy of the dataclass ``default`` with other values, each spelled ``field=value``."""
    hints = get_type_hints(type(default), include_extras=True)
    known = [field.name for field in _fields(default)]
    values: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not value:
            raise BadInput(f"{text}: {setting!r} should have the form field=value")
        if key in values:
            raise BadInput(f"{text}: {key} is given twice")
        try:
            values[key] = _read(value, hints[choose(key, known, "field")])
        except ValidationError as error:
            raise BadInput(f"{text}: {_explain(error, key, value)}") from None
        except BadInput as error:
            raise BadInput(f"{text}: {error}") from None
    return replace(default, **values)  # type: ignore[type-var]


def _read(text: str, hint: Any) -> Any:
    if text == "None" and NoneType in get_args(hint):
        return None
    adapter = TypeAdapter(hint, config=ConfigDict(allow_inf_nan=False))
    return adapter.validate_python(tuple(text.split("+")) if _is_tuple(hint) else text)


def _is_tuple(hint: Any) -> bool:
    origin = get_origin(hint)
    return origin is tuple or any(get_origin(part) is tuple for part in get_args(hint))


def _explain(error: ValidationError, key: str, value: str) -> str:
    rule = error.errors()[0]["msg"].removeprefix("Value error, ")
    return f"{key}: {rule.replace('Input should', 'it should')}, not {value!r}"


def spell(thing: Any, name: str) -> str:
    """``name`` and the fields that differ from those of ``thing``'s class."""
    return respell(thing, type(thing)(), name)


def respell(thing: T, default: T, name: str) -> str:
    """``name`` and the fields in which ``thing`` differs from ``default``."""
    changed = [f.name for f in _fields(thing) if getattr(thing, f.name) != getattr(default, f.name)]
    return ",".join([name, *(f"{key}={write(getattr(thing, key))}" for key in changed)])


def canonical(text: str, package: str, base: type[Any]) -> str:
    """The one spelling of what ``text`` spells: fields in order, those at their default left out."""
    return spell(parse(text, package, base), text.split(",")[0])


def write(value: Any) -> str:
    """The spelling of one value; ``_read`` reads it back."""
    if isinstance(value, tuple):
        return "+".join(write(part) for part in value)
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)


def resolved(thing: Any) -> dict[str, Any]:
    """Every field of a dataclass, as JSON gives it back."""
    plain: dict[str, Any] = json.loads(json.dumps(asdict(thing)))
    return plain


def _fields(thing: Any) -> tuple[Field[Any], ...]:
    return fields(thing)
