"""Where kernels differ: a named flag each, one column per era.  Targets ask flags, never versions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final


@dataclass(frozen=True, slots=True)
class Era:
    """One kernel's answers.  The facts are those of the reference (mirror.md, snapshot.md, dm-core.md).

    ``holds_failed_writes``: a write that failed on a leg waits for user space (since 2.6.33).
    ``holds_before_recovery_stop``: presuspend releases held writes first (since 2.6.34).
    ``nosync_writes_join_failures``: a write to an out-of-sync region waits too once a leg failed.
    ``log_failure_blocks_only_handled``: without handle_errors a failed log is ignored (2.6.33).
    ``flushes_reach_legs``: an empty flush goes to the legs (since 2.6.33).
    ``log_flushes_devices``: the disk log flushes legs and log device (after 2.6.32).
    ``keep_log``: the mirror feature of that name exists.
    ``snapshot_handover``: a second snapshot table takes the first one's exceptions over (2.6.33).
    ``snapshot_usage_metadata``: status shows the metadata sectors (2.6.33).
    ``snapshot_overflow``: the store type PO exists (about 4.4).
    ``raid``: that target exists (2.6.38).
    ``flush_suspend_fails_held``: held writes end with EIO when a suspend without noflush begins; without
    this rule they stay held, and the suspend waits for them (the mail's second case).
    ``old_table_destroyed_first``: a swap destroys the old table before the new one is bound.
    ``presuspend_undo``: an aborted suspend is undone in the targets.
    ``empty_device_waits``: a bio to a device that has had no table yet waits for one (dm since 5.18, but since
    6.5 the block layer fails it before, because the device's size is 0).
    ``log_failure_fails_writes``: a write to what is in sync ends with EIO once the log has failed.
    ``snapshot_tracks_reads``: the end of a copy waits for reads of the origin that began before it.
    ``failed_copies_are_committed``: the store is told of a copy that has failed too, so that it counts right.

    ``error_takes_device``: the error target takes a device over, whose limits it has (6.18).
    ``flakey_error_reads``: flakey knows ``error_reads`` and the features of chance, has errors for a default, and
    reaches the bytes that come from a disk (6.18).
    ``refuses_taken_names``: no device may be called what /dev/mapper has anyway (6.5).

    ``now`` is Linux 6.1, which everything here is held against (versions and all), but for ``empty_device_waits``; of
    6.18 only these flags are known.  ``before-COMMIT`` is a kernel without that one fix, and otherwise the era that
    has it.
    """

    name: str
    holds_failed_writes: bool = True
    holds_before_recovery_stop: bool = True
    nosync_writes_join_failures: bool = True
    log_failure_blocks_only_handled: bool = True
    flushes_reach_legs: bool = True
    log_flushes_devices: bool = True
    keep_log: bool = True
    snapshot_handover: bool = True
    snapshot_usage_metadata: bool = True
    snapshot_overflow: bool = True
    raid: bool = True
    old_table_destroyed_first: bool = False
    presuspend_undo: bool = True
    flush_suspend_fails_held: bool = True
    empty_device_waits: bool = False
    log_failure_fails_writes: bool = False
    snapshot_tracks_reads: bool = True
    failed_copies_are_committed: bool = True
    error_takes_device: bool = False
    flakey_error_reads: bool = False
    refuses_taken_names: bool = False


_2_6_34: Final = Era("2.6.34", keep_log=False, snapshot_overflow=False, raid=False, presuspend_undo=False)
_2_6_32: Final = Era(
    "2.6.32", holds_failed_writes=False, holds_before_recovery_stop=False,
    nosync_writes_join_failures=False, log_failure_blocks_only_handled=False,
    flushes_reach_legs=False, log_flushes_devices=False, keep_log=False,
    snapshot_handover=False, snapshot_usage_metadata=False, snapshot_overflow=False, raid=False,
    old_table_destroyed_first=True, presuspend_undo=False)

_ALL: Final = (
    Era("now"),
    Era("6.18", error_takes_device=True, flakey_error_reads=True, refuses_taken_names=True),
    Era("without-eio-rule", flush_suspend_fails_held=False),
    Era("6.3", empty_device_waits=True),
    Era("without-eio-rule-6.3", empty_device_waits=True, flush_suspend_fails_held=False),
    Era("before-385277bfb57f", failed_copies_are_committed=False),
    _2_6_34,
    _2_6_32,
    replace(_2_6_32, name="before-a8d41b59f3f5", snapshot_tracks_reads=False),
    replace(_2_6_32, name="before-b80aa7a0c268", log_failure_fails_writes=True),
)
ERAS: Mapping[str, Era] = MappingProxyType({era.name: era for era in _ALL})
