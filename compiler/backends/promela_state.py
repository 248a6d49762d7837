"""The variables of a Promela model, and the control operations that wait for nothing."""

from __future__ import annotations

from typing import Final

STATE: Final = r"""
/* ---- How everything stands ------------------------------------------------------------------------------ */

bool exists[DEVICES];          /* the mapped device has been created */
byte live[DEVICES];            /* the table in use, or NO_TABLE */
byte inactive[DEVICES];        /* the table that a resume will swap in, or NO_TABLE */
bool block_io[DEVICES];        /* new bios wait */
bool suspended[DEVICES];
bool noflush[DEVICES];         /* a suspend with noflush is under way: bios may be pushed back */
byte suspend_lock[DEVICES];    /* who is inside suspend, swap or resume: a caller + 1 */
byte in_flight[DEVICES];       /* bios in the live table, down to the disks and in what holds them */
byte deferred[DEVICES];        /* bios that wait for a resume */
byte event_nr[DEVICES];        /* counted only where somebody waits for one */

/* The letter of a mirror's leg: D once a write has failed there, R when only reads have, else A; of the log A or D. */
#define A_MIRROR(d) (live[d] != NO_TABLE && KIND(live[d]) == MIRROR)
#define LEGS_D(d, legs) (A_MIRROR(d) && (bad_writes[d] & ALL_LEGS(live[d]) & (legs)) != 0)
#define LEGS_R(d, legs) (A_MIRROR(d) && (bad_reads[d] & ~bad_writes[d] & ALL_LEGS(live[d]) & (legs)) != 0)
#define LEGS_A(d, legs) (A_MIRROR(d) && (ALL_LEGS(live[d]) & (legs) & ~(bad_writes[d] | bad_reads[d])) != 0)
#define LOG_D(d) (A_MIRROR(d) && bad_log[d])
#define LOG_A(d) (A_MIRROR(d) && LOG(live[d]) != NO_DISK && !bad_log[d])

bool presuspended[DEVICES];    /* the live table is a mirror, from its presuspend to its resume */
byte bad_writes[DEVICES];      /* its legs (bits) that a write has failed on */
byte bad_reads[DEVICES];       /* ... that a read has failed on */
bool bad_log[DEVICES];         /* its log has failed */
byte held[DEVICES];            /* writes that wait for a suspend, since a leg or the log has failed */

byte failing[DISKS];           /* what fails there: READS, WRITES or both */

byte writers[FILESYSTEMS];     /* writes under way in the filesystem */
bool freezing[FILESYSTEMS];
bool by_user[FILESYSTEMS];     /* frozen by fsfreeze */
bool by_suspend[FILESYSTEMS];  /* frozen by a suspend with lockfs */
#define FROZEN(f) (freezing[f] || by_user[f] || by_suspend[f])

byte lock_owner[LOCKS];        /* a caller + 1 */

bool registered[DEVICES];      /* dmeventd waits for its events */
byte heard[DEVICES];           /* ... and the number of the last one that it has heard of */

byte inside[DEVICES];          /* whose it is between its suspend and the end of its resume: a process + 1 */
byte loader[DEVICES];          /* who has loaded the inactive table: a process + 1 */

/* What a process asks of the kernel, and the errno that it gets. */
mtype = { READ, WRITE, FLUSH, SUSPEND, RESUME, FREEZE, THAW };
chan call[CALLERS] = [0] of { mtype, byte, byte, byte };
chan answer[CALLERS] = [0] of { byte };

#define ASK(what, on, one, two) call[me]!what(on, one, two); answer[me]?status

/* ---- Control operations that wait for nothing ------------------------------------------------------------ */

/* Somebody else is between suspend and resume of the device. */
inline meddles(d) {
    assert(inside[d] == 0 || inside[d] == process + 1 || no_race)
}

inline must_exist(d) {
    if :: !exists[d] -> status = ENXIO :: else fi
}

/* create without a table */
inline create(d) {
    atomic {
        status = OK;
        if :: exists[d] -> status = EBUSY :: else -> exists[d] = true fi
    }
}

/* A table that names what is not there is refused. */
inline put_table(d, t) {
    if
    :: (t) == NO_TABLE || !BELOW_EXISTS((t)) -> status = EINVAL
    :: else -> inactive[d] = t
    fi
}

inline load(d, t) {
    atomic {
        status = OK;
        must_exist(d);
        if
        :: status == OK ->
            meddles(d);
            loader[d] = process + 1;
            put_table(d, t)
        :: else
        fi
    }
}

inline clear(d) {
    atomic {
        status = OK;
        must_exist(d);
        if :: status == OK -> inactive[d] = NO_TABLE :: else fi
    }
}

/* A device that a table names is in use. */
inline remove(d) {
    atomic {
        status = OK;
        must_exist(d);
        one = 0;
        do
        :: one < DEVICES ->
            if :: status == OK && (NAMES(live[one], d) || NAMES(inactive[one], d)) -> status = EBUSY :: else fi;
            one++
        :: else -> break
        od;
        one = 0;
        if
        :: status == OK ->
            exists[d] = false; live[d] = NO_TABLE; inactive[d] = NO_TABLE;
            suspended[d] = false; block_io[d] = false; presuspended[d] = false;
            bad_writes[d] = 0; bad_reads[d] = 0; bad_log[d] = false; event_nr[d] = 0; registered[d] = false
        :: else
        fi
    }
}

/* A suspend by a process begins ... */
inline enters(d) {
    meddles(d);
    if :: inside[d] == 0 -> inside[d] = process + 1 :: else fi
}

/* ... and its resume begins, and ends. */
inline swaps(d) {
    meddles(d);
    assert(inactive[d] == NO_TABLE || loader[d] == 0 || loader[d] == process + 1 || no_race);
    loader[d] = 0
}

inline leaves(d) {
    if :: inside[d] == process + 1 -> inside[d] = 0 :: else fi
}

/* Two devices that are not suspended and whose live tables write to one place. */
inline two_writers() {
    one = 0;
    do
    :: one < DEVICES ->
        other = one + 1;
        do
        :: other < DEVICES ->
            assert(suspended[one] || suspended[other] || !OVERLAP(live[one], live[other]) || no_race);
            other++
        :: else -> break
        od;
        one++
    :: else -> break
    od;
    one = 0;
    other = 0
}

/* dmeventd is to wait for a device's events: for all that it has had, or for those to come. */
inline enroll(d, past) {
    atomic {
        status = OK;
        must_exist(d);
        if :: status == OK -> registered[d] = true; heard[d] = (past -> 0 : event_nr[d]) :: else fi
    }
}

inline take(l) {
    atomic { lock_owner[l] == 0 || lock_owner[l] == me + 1 -> lock_owner[l] = me + 1 }
}

inline let_go(l) {
    lock_owner[l] = 0
}

inline raise_event(d) {
    if :: AWAITED(d) -> event_nr[d]++ :: else fi
}
"""
