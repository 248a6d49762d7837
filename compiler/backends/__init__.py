"""The forms in which a plan can be written: one file and one line here for each."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from dmspec.compiler.backends.base import Backend, BackendError
from dmspec.compiler.backends.dmsetup import DMSETUP
from dmspec.compiler.backends.mermaid import MERMAID
from dmspec.compiler.backends.plan import PLAN
from dmspec.compiler.backends.promela import PROMELA
from dmspec.compiler.backends.pytest_module import PYTEST
from dmspec.compiler.backends.python_program import PYTHON

_ALL: Final = (
    PLAN,
    PYTHON,
    PYTEST,
    DMSETUP,
    PROMELA,
    MERMAID,
)
BACKENDS: Final[Mapping[str, Backend]] = MappingProxyType({one.name: one for one in _ALL})

__all__ = ["BACKENDS", "Backend", "BackendError"]
