"""The device-mapper part of a Promela model: what the kernel does for a caller, as a person reads it.

What a spec has (names, tables, eras) comes before it as macros (:mod:`.promela_tables`), and so do the variables
(:mod:`.promela_state`).
"""

from __future__ import annotations

from typing import Final

KERNEL: Final = r"""
/* ---- The kernel's side of one caller --------------------------------------------------------------------- */

/* A caller waits for its bio, so the bio's life is told here: `path` are the devices that it is in, from the top.
 * `at` is where it goes next: a device, or, from DEVICES on, a disk. */
proctype kernel(byte me) {
    mtype what, op;
    byte on, one, two;             /* the call: on what, and its words */
    byte status, table, swap_in;
    byte at, depth, path[DEPTH];   /* the bio */
    byte copying;                  /* at this depth a snapshot's copy is made before the write goes on */
    bool pushed_back;
    byte done_legs, failed_legs;
    byte leg;
    mtype bio_of, suspend_of;      /* for what a bio or a suspend is: where to go on */

end_asleep:
    call[me]?what(on, one, two);
    status = OK;
    if
    :: what == SUSPEND -> suspend_of = SUSPEND; goto suspend
    :: what == RESUME -> goto resume
    :: what == FREEZE -> suspend_of = FREEZE; goto freeze
    :: what == THAW -> goto thaw
    :: else -> goto transfer
    fi;

reply:
    atomic {
        at = 0; op = 0; bio_of = 0; suspend_of = 0; what = 0; on = 0; one = 0; two = 0;
        swap_in = NO_TABLE;
        answer[me]!status;
        status = OK
    }
    goto end_asleep;

/* Reads, writes and flushes of a process: `on` a device or disk; `one` is the filesystem, or NO_FILESYSTEM. */
transfer:
    if
    :: one != NO_FILESYSTEM && what != READ ->
        atomic { !FROZEN(one) -> writers[one]++ }
    :: else
    fi;
    at = on;
    op = what;
    bio_of = what;
    goto submit;
transferred:
    if
    :: one != NO_FILESYSTEM && what != READ -> writers[one]--
    :: else
    fi;
    goto reply;

/* ---- The life of a bio ---- */

submit:
    atomic {
        if
        :: at >= DEVICES -> goto on_disk
        :: else
        fi;
        if
        :: live[at] == NO_TABLE && EMPTY_DEVICE_WAITS && op != FLUSH -> deferred[at]++ -> goto wait_deferred
        :: live[at] == NO_TABLE && !(EMPTY_DEVICE_WAITS && op != FLUSH) ->     /* a device of size 0 */
            status = (op == FLUSH -> OK : EIO);
            goto bio_over
        :: else
        fi;
        if
        :: block_io[at] || pushed_back -> deferred[at]++ -> goto wait_deferred
        :: else
        fi;
map:
        in_flight[at]++;
        path[depth] = at;
        depth++;
        table = live[at];
        if
        :: KIND(table) == LINEAR -> at = LOWER(table); goto submit
        :: KIND(table) == ORIGIN ->
            if
            :: op == WRITE && COPIES_FOR(LOWER(table)) -> copying = depth; op = READ
            :: else
            fi;
            at = LOWER(table);
            goto submit
        :: KIND(table) == SNAPSHOT -> at = (op == READ -> LOWER(table) : COW(table)); goto submit
        :: KIND(table) == ZERO -> goto bio_over
        :: KIND(table) == ERROR -> status = EIO; goto bio_over
        :: KIND(table) == MIRROR && op == READ -> goto mirror_read
        :: KIND(table) == MIRROR && op == FLUSH && !FLUSHES_REACH_LEGS -> goto bio_over
        :: else -> goto mirror_write
        fi
    }

wait_deferred:                                         /* until a resume */
    atomic {
        live[at] != NO_TABLE && !block_io[at] && !(pushed_back && noflush[at]) ->
        deferred[at]--;
        pushed_back = false;
        goto map
    }

on_disk:                                               /* the disk answers: a step of its own */
    atomic {
        if :: FAILS(at - DEVICES, op) -> status = EIO :: else fi;
        goto bio_over
    }

/* One leg after the other answers, in any order; then the mirror's worker looks at what came of it. */
mirror_write:
    if
    :: LOG(table) != NO_DISK && FAILS(LOG(table), WRITE) && !bad_log[at] ->
        atomic { bad_log[at] = true; raise_event(at) }
    :: else
    fi;
    if
    :: bad_log[at] && (HANDLES_ERRORS(table) || !LOG_FAILURE_BLOCKS_ONLY_HANDLED) -> goto mirror_failed
    :: else
    fi;
    do
@LEGS@
    :: done_legs == ALL_LEGS(table) -> break
    od;
    atomic {
        done_legs = 0;
        if
        :: failed_legs == 0 -> goto bio_over
        :: failed_legs & ~bad_writes[at] -> raise_event(at)
        :: else
        fi;
        bad_writes[at] = bad_writes[at] | failed_legs;
        if
        :: !HOLDS_FAILED_WRITES && failed_legs == ALL_LEGS(table) -> failed_legs = 0; status = EIO; goto bio_over
        :: else -> failed_legs = 0
        fi
    }
mirror_failed:
    atomic {
        if
        :: !HOLDS_FAILED_WRITES && !bad_log[at] -> goto bio_over
        :: HOLDS_FAILED_WRITES && (bad_writes[at] | bad_reads[at]) == ALL_LEGS(table) -> status = EIO; goto bio_over
        :: HOLDS_FAILED_WRITES && KEEPS_LOG(table) && bad_log[at] -> status = EIO; goto bio_over
        :: HOLDS_FAILED_WRITES && (!HANDLES_ERRORS(table) || KEEPS_LOG(table)) -> goto bio_over
        :: else -> held[at]++
        fi
    }
    /* Held: only a presuspend ends it, and one with flush only where the kernel's rule says so. */
    atomic {
        presuspended[at] && (noflush[at] || FLUSH_SUSPEND_FAILS_HELD) ->
        held[at]--;
        status = (noflush[at] -> REQUEUE : EIO);
        goto bio_over
    }

/* From the first leg without errors; another one if that fails; never held. */
mirror_read:
    atomic {
        if
        :: (bad_writes[at] | bad_reads[at]) == ALL_LEGS(table) -> status = EIO; goto bio_over
        :: else
        fi;
        leg = 0;
        do
        :: (bad_writes[at] | bad_reads[at]) & (1 << leg) -> leg++
        :: else -> break
        od;
        if
        :: LEG_FAILS(table, leg, READ) -> bad_reads[at] = bad_reads[at] | (1 << leg); raise_event(at)
        :: else -> leg = 0; goto bio_over
        fi;
        leg = 0
    }
    goto mirror_read;

/* Up again through the devices that it is in. */
bio_over:
    atomic {
        do
        :: depth == 0 -> break
        :: else ->
            at = path[depth - 1];
            if
            :: copying == depth ->                     /* the copy is made, or the snapshot lost: now the write */
                copying = 0;
                op = WRITE;
                status = OK;
                at = LOWER(live[at]);
                goto submit
            :: else
            fi;
            depth--;
            path[depth] = 0;
            in_flight[at]--;
            if
            :: status == REQUEUE && noflush[at] ->     /* in front of all that wait */
                status = OK;
                pushed_back = true;
                goto submit
            :: status == REQUEUE && !noflush[at] -> status = EIO
            :: else
            fi
        od;
        table = NO_TABLE;
        if
        :: bio_of == FREEZE && op == WRITE -> goto journal_written
        :: bio_of == FREEZE && op == FLUSH -> goto journal_flushed
        :: else -> goto transferred
        fi
    }

/* ---- Freezing a filesystem: it writes its journal ---- */

/* `two` is the filesystem. */
freeze:
    atomic {
        if
        :: freezing[two] -> !FROZEN(two)
        :: else
        fi;
        if
        :: suspend_of == FREEZE && by_user[two] -> status = EBUSY; goto reply
        :: FROZEN(two) -> goto frozen
        :: else -> freezing[two] = true
        fi
    }
    writers[two] == 0;
    at = MOUNTED(two);
    op = WRITE;
    bio_of = FREEZE;
    goto submit;
journal_written:
    if
    :: status == OK -> at = MOUNTED(two); op = FLUSH; goto submit
    :: else
    fi;
journal_flushed:
    freezing[two] = false;
    if
    :: status != OK && suspend_of == FREEZE -> goto reply
    :: status != OK -> noflush[on] = false; suspend_lock[on] = 0; goto suspend_over
    :: else
    fi;
frozen:
    if
    :: suspend_of == FREEZE -> by_user[two] = true; goto reply
    :: else -> by_suspend[two] = true; goto block
    fi;

thaw:
    atomic {
        if :: by_user[two] -> by_user[two] = false :: else -> status = EINVAL fi;
        goto reply
    }

/* ---- dm_suspend: `on` a device, `one` are its words ---- */

suspend:
    if
    :: suspend_of == SUSPEND && suspended[on] -> goto reply        /* already: a success */
    :: else
    fi;
    atomic {
        suspend_lock[on] == 0 -> suspend_lock[on] = me + 1;
        if
        :: suspended[on] -> suspend_lock[on] = 0; status = EINVAL; goto suspend_over
        :: else
        fi;
        if :: one & NOFLUSH -> noflush[on] = true :: else fi
    }
    atomic {
        /* A mirror stops its recovery. After a suspend that failed it has, and waits for ever. */
        !(STOPS_RECOVERY(live[on]) && presuspended[on]) ->
        if :: KIND(live[on]) == MIRROR -> presuspended[on] = true :: else fi;
        two = FILESYSTEM_ON(on);
        if
        :: !(one & (NOFLUSH | NOLOCKFS)) && live[on] != NO_TABLE && two != NO_FILESYSTEM -> goto freeze
        :: else
        fi
    }
block:
    block_io[on] = true;
    atomic {
        in_flight[on] == 0 ->                          /* the drain */
        suspended[on] = true;
        noflush[on] = false;
        suspend_lock[on] = 0
    }
suspend_over:
    if
    :: suspend_of == RESUME -> goto swap
    :: else -> goto reply
    fi;

/* ---- DM_DEV_SUSPEND without the suspend flag: swap the inactive table in, then resume ---- */

resume:
    atomic {
        swap_in = inactive[on];
        inactive[on] = NO_TABLE;
        if
        :: swap_in == NO_TABLE && !suspended[on] -> goto reply
        :: swap_in == NO_TABLE && suspended[on] -> goto unblock
        :: swap_in != NO_TABLE && suspended[on] -> goto swap
        :: else -> suspend_of = RESUME; goto suspend
        fi
    }
swap:
    atomic {
        status = OK;                                   /* whatever came of the suspend before */
        suspend_lock[on] == 0 ->
        if
        :: !suspended[on] -> status = EINVAL; goto reply
        :: else
        fi;
        live[on] = swap_in;                            /* a mirror begins anew */
        presuspended[on] = false;
        bad_writes[on] = 0;
        bad_reads[on] = 0;
        bad_log[on] = false
    }
    if
    :: !suspended[on] -> goto reply
    :: else
    fi;
unblock:
    atomic {
        suspend_lock[on] == 0 -> suspend_lock[on] = me + 1;
        if
        :: !suspended[on] || live[on] == NO_TABLE -> suspend_lock[on] = 0; status = EINVAL; goto reply
        :: else
        fi;
        if
        :: KIND(live[on]) == SNAPSHOT && SNAPSHOT_HANDOVER -> goto stop_origin
        :: else
        fi
    }
activate:
    atomic {
        presuspended[on] = false;
        block_io[on] = false;
        two = FILESYSTEM_ON(on);
        if :: two != NO_FILESYSTEM -> by_suspend[two] = false :: else fi;
        suspended[on] = false;
        suspend_lock[on] = 0;
        goto reply
    }

/* A snapshot that is resumed suspends the device of its origin meanwhile, without that device's targets knowing. */
stop_origin:
    atomic {
        at = 0;
        do
        :: at == DEVICES -> goto activate
        :: at < DEVICES && KIND(live[at]) == ORIGIN && LOWER(live[at]) == LOWER(live[on]) && !suspended[at] -> break
        :: else -> at++
        od
    }
    atomic {
        suspend_lock[at] == 0 -> suspend_lock[at] = me + 1;
        if :: !suspended[at] -> block_io[at] = true :: else fi
    }
    atomic {
        suspended[at] || in_flight[at] == 0 ->
        if :: !suspended[at] -> block_io[at] = false :: else fi;
        suspend_lock[at] = 0;
        goto activate
    }
}
"""

LEG: Final = r"""    :: atomic {{
        (ALL_LEGS(table) & {bit}) && !(done_legs & {bit}) ->
        if :: LEG_FAILS(table, {leg}, op) -> failed_legs = failed_legs | {bit} :: else fi;
        done_legs = done_legs | {bit}
    }}"""

JUDGE: Final = r"""
/* ---- What must hold when nothing can move any more ------------------------------------------------------- */

active proctype judge() {
    byte d;
    atomic {
        timeout ->
        do
        :: d < DEVICES -> assert(!suspended[d] || resumed_at_end); d++
        :: else -> break
        od
    }
}
"""


def kernel(most_legs: int) -> str:
    """The kernel's side, with as many legs as the widest mirror has."""
    legs = "\n".join(LEG.format(leg=leg, bit=1 << leg) for leg in range(most_legs))
    return KERNEL.replace("@LEGS@", legs or "    :: false -> skip")
