"""Every kind of extension, one line each.  Tests iterate over these tables."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol, TypeVar

from .checks import CHECK_TYPES, CheckType
from .operations.base import ConditionType, OperationType
from .operations.conditions import CONDITION_TYPES
from .operations.control import CONTROL_OPERATIONS
from .operations.expectations import EXPECTATION_OPERATIONS
from .operations.faults import FAULT_OPERATIONS
from .operations.io import IO_OPERATIONS
from .operations.monitoring import MONITORING_OPERATIONS
from .operations.repair import REPAIR_OPERATIONS
from .targets.base import TargetType
from .targets.delay import DELAY
from .targets.dust import DUST
from .targets.error import ERROR
from .targets.flakey import FLAKEY
from .targets.linear import LINEAR
from .targets.log_writes import LOG_WRITES
from .targets.mirror import MIRROR
from .targets.raid import RAID
from .targets.snapshot import SNAPSHOT
from .targets.snapshot_merge import SNAPSHOT_MERGE
from .targets.snapshot_origin import SNAPSHOT_ORIGIN
from .targets.striped import STRIPED
from .targets.zero import ZERO


class _Named(Protocol):
    @property
    def name(self) -> str: ...


_T = TypeVar("_T", bound=_Named)


def _table(*types: _T) -> Mapping[str, _T]:
    by_name = {one.name: one for one in types}
    assert len(by_name) == len(types), "a name is registered twice"
    return MappingProxyType(by_name)


TARGETS: Mapping[str, TargetType] = _table(
    LINEAR, STRIPED, ERROR, ZERO, MIRROR, SNAPSHOT_ORIGIN, SNAPSHOT, SNAPSHOT_MERGE, RAID, DELAY, FLAKEY, DUST,
    LOG_WRITES,
)
OPERATIONS: Mapping[str, OperationType] = _table(
    *CONTROL_OPERATIONS, *IO_OPERATIONS, *MONITORING_OPERATIONS, *REPAIR_OPERATIONS, *FAULT_OPERATIONS,
    *EXPECTATION_OPERATIONS,
)
CONDITIONS: Mapping[str, ConditionType] = _table(*CONDITION_TYPES)
CHECKS: Mapping[str, CheckType] = _table(*CHECK_TYPES)
