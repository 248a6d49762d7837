"""What states refer to and no step changes: the plan, the classes, and the words that the runtime's code has.

A :class:`~.state.Codec` begins each pickle with all of this in its memo, so a state's bytes have a number for each.
That makes them short, and equal states equal bytes: pickle tells objects apart by identity, and a word that the code
has is not the object that another step has left there.
"""

from __future__ import annotations

import enum
import importlib
import pkgutil
import sys
import types
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from functools import cache
from typing import Any

from .. import operations, targets
from ..eras import ERAS
from ..registry import TARGETS
from ..runner import Running


def interned(value: Any) -> Any:
    """The same plan, its words interned."""
    if isinstance(value, str):
        return sys.intern(value)
    if isinstance(value, list | tuple):
        return type(value)(interned(one) for one in value)
    if isinstance(value, Mapping):
        return {interned(key): interned(one) for key, one in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{one.name: interned(getattr(value, one.name)) for one in fields(value)})
    return value


def known(plan: Any) -> list[Any]:
    """Everything, each once, in an order that is the same in every process.  The plan is an interned one."""
    parts: dict[int, Any] = {}
    _walk(plan, parts)
    words = {one for one in parts.values() if isinstance(one, str)}
    words.update(_words())
    return [*(sys.intern(word) for word in sorted(words)), *_classes(), TARGETS, *ERAS.values(),
            *(one for one in parts.values() if not isinstance(one, str))]


def _walk(value: Any, found: dict[int, Any]) -> None:
    """Note what pickle would note of it."""
    if id(value) in found or value is None or isinstance(value, int) or value == ():
        return
    found[id(value)] = value
    if isinstance(value, list | tuple):
        for one in value:
            _walk(one, found)
    elif isinstance(value, dict):
        for key, one in value.items():
            _walk(key, found)
            _walk(one, found)
    elif is_dataclass(value):
        for part in fields(value):
            _walk(getattr(value, part.name), found)


@cache
def _modules() -> list[types.ModuleType]:
    """Those of the runtime that a run stands on, whatever else this process has loaded."""
    package = Running.__module__.rpartition(".")[0]
    todo = [Running.__module__, *(f"{part.__name__}.{one.name}" for part in (operations, targets)
                                  for one in pkgutil.iter_modules(part.__path__))]
    seen = set(todo)
    while todo:
        for value in vars(importlib.import_module(todo.pop())).values():
            name = getattr(value, "__module__", None)
            if isinstance(name, str) and name.startswith(f"{package}.") and name not in seen:
                seen.add(name)
                todo.append(name)
    return [sys.modules[name] for name in sorted(seen)]


@cache
def _classes() -> list[Any]:
    """The classes, and what is in those that are enumerations."""
    classes = [value for module in _modules() for _name, value in sorted(vars(module).items())
               if isinstance(value, type) and value.__module__ == module.__name__]
    return [*classes, *(member for one in classes if issubclass(one, enum.Enum) for member in one)]


@cache
def _words() -> set[str]:
    words: set[str] = set()
    for module in _modules():
        for value in vars(module).values():
            if getattr(value, "__module__", None) != module.__name__:
                continue
            if isinstance(value, types.FunctionType):
                words.update(_words_of_code(value.__code__))
            elif isinstance(value, type):
                words.update(_words_of_class(value))
    return words


def _words_of_class(value: type) -> Iterator[str]:
    yield from vars(value).get("__slots__", ())
    begin = vars(value).get("__init__")
    if isinstance(begin, types.FunctionType):
        yield from begin.__code__.co_names
    for one in vars(value).values():
        function = getattr(one, "fget", None) or getattr(one, "__func__", one)
        if isinstance(function, types.FunctionType):
            yield from _words_of_code(function.__code__)


def _words_of_code(code: types.CodeType) -> Iterator[str]:
    for one in code.co_consts:
        if isinstance(one, types.CodeType):
            yield from _words_of_code(one)
        elif isinstance(one, str) and one.replace("-", "_").isidentifier():
            yield one
