"""The plan itself, as msgpack: what `dmspec run` and `dmspec mount` make of a spec first."""

from __future__ import annotations

from typing import Final

from dmspec.compiler.backends.base import Backend
from dmspec.runtime.plan import to_bytes

PLAN: Final = Backend("plan", "the plan that the runtime loads (msgpack)", to_bytes)
