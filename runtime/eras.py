"""Where kernels differ: a named flag each, one column per era.  Targets ask flags, never versions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


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
    ``error_takes_device``: the error target takes a device over, whose limits it has (6.18).
    ``flakey_error_reads``: flakey knows ``error_reads`` and the features of chance, has errors for a default, and
    reaches the bytes that come from a disk (6.18).

    ``now`` is Linux 6.1, which everything here is held against (versions and all); of 6.18 only these flags are known.
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
    error_takes_device: bool = False
    flakey_error_reads: bool = False


ERAS: Mapping[str, Era] = MappingProxyType({
    "now": Era("now"),
    "6.18": Era("6.18", error_takes_device=True, flakey_error_reads=True),
    "without-eio-rule": Era("without-eio-rule", flush_suspend_fails_held=False),
    "2.6.34": Era("2.6.34", keep_log=False, snapshot_overflow=False, raid=False, presuspend_undo=False),
    "2.6.32": Era(
        "2.6.32", holds_failed_writes=False, holds_before_recovery_stop=False,
        nosync_writes_join_failures=False, log_failure_blocks_only_handled=False,
        flushes_reach_legs=False, log_flushes_devices=False, keep_log=False,
        snapshot_handover=False, snapshot_usage_metadata=False, snapshot_overflow=False, raid=False,
        old_table_destroyed_first=True, presuspend_undo=False,
    ),
})
