"""Why nothing notices a mutant: rules, of which the first that fits counts.

A rule is a regular expression over "FUNCTION: BEFORE -> AFTER".  Most survivors are of a few kinds, and a kind is a
rule, so what is changed tomorrow need not be explained again; a single one is a rule with its function's name.  One
that no rule fits lacks a test, until somebody has looked and knows better.
"""

from __future__ import annotations

import re
from typing import Final

from tests.mutation.mutants import Mutant

MISSING: Final = "A test is missing"


def reason(mutant: Mutant) -> str:
    """The heading under which it is listed."""
    text = f"{mutant.function}: {mutant.before} -> {mutant.after}"
    return next((why for why, rule in RULES if re.search(rule, text)), MISSING)


RULES: Final[tuple[tuple[str, str], ...]] = (
    ("The step that is called at once does not look at the task that it is given",
     r"(return self|else self)\.\w+\(task\).* -> .*\.\w+\(None\)"),
    ("Only whether it is true is asked for, and None is as false as False or 0",
     (r"= (False|0) -> .*= None$|error=False\) -> .*error=None|failed=False\) -> .*failed=None"
     r"|(limited|from_origin|preflush = bio\.fua) ?= ?False.* -> .*= ?None|fill\((False|True)\) -> .*fill\(None\)"
     r"|strict=True|in_sync = False -> .*None|recovering = |touched_\w+ = True -> .*None"
     r"|set_region_sync\(key, False\) -> .*None|_complete_resync\(region, False\) -> .*None|\.get\(.*, 0\) -> ")),
    ("A status that is None is no error, as 0 is; only a negative value of a frame is one",
     (r"(complete|over|Return)\(0\) -> .*(complete|over|Return)\((None|1)?\)|self\.result = 0 -> .*= 1"
     r"|if failed else 0\) -> .*if failed else 1\)|result <\s?0: -> |return 0 -> return 1"
      r"|Return\(1\) -> .*Return\(2\)")),
    ("An initial value that is set again before anybody reads it, or that stands for the same",
     (r"\.__init__: self\.[\w.]+(: [^=]+)? = |_construct_state: self\.[\w.]+(: [^=]+)? = |\.__init__: .*fill\("
     r"|\.__init__: super\(\)|MergeNext\.__init__|: self\.(reads|writes) = \[\] -> ")),
    ("A default that every caller overrides, or none does",
     r": def \w+\(.* -> def \w+\("),
    ("An empty flush has no place on the disk",
     r"Bio\(Op\.FLUSH, .*0, 0.* -> .*Bio\(Op\.FLUSH, .*(1, 0|0, 1|None)"),
    ("The errno of a table that is refused is the caller's",
     r"raise DmError\(errno\.EINVAL(, .*)?\) -> raise DmError\("),
    ("typing.cast does nothing when it runs",
     r"return cast\("),
    ("Everything but 0 is an error count, and nobody asks how large it is",
     r"error_count \+= 1"),
    ("What a copy that never was is said to have copied is not looked at",
     r"\.bio_done: (job = CopyJob|job\.write_errors = .*= 2 if)"),
    ("A core log writes nothing, so what was touched does not matter; a disk log is touched by more than this",
     r"dirty_log\..*touched_(cleaned|dirtied)"),
    ("What is not there is not there",
     r"\.pop\((region\.key|key), None\) -> "),
    ("Which error it was is said in the same words for all but EIO",
     r"invalidate\(errno\.ENOMEM\) -> .*invalidate\(None\)"),
    ("Where the difference is one sector that cannot be, one word longer than a number can be, or a length that is cut",
     (r"get_resync_work: while|create_log: region = int|_wants_copy: .*sector <= |PrepareMerge\.count: while"
     r"|MergeNext\.drain: min\(|PendingException\.start_copy: sectors|ZeroChunk\.start: Bio\("
     r"|DiskLog\.__init__: if|smallest_chunk")),
    ("The order of bytes does not matter to a count of bits; eight bits at a time are only quicker",
     r"Bits\.weight|Bits\.next_zero"),
    ("No features and a count of 0 are the same table",
     r"mirror\._params"),
    ("Only the end of a merge with nothing left looks at it, and at the count alone",
     r"PrepareMerge\.start: return Return\(\(0, 0, 0\)\)|Commit\.start: return Return\(\(\[\], True\)\)"),
    ("A mirror numbers its regions from where it likes, if it does so always",
     r"RegionHash\.region_of"),
    ("Nothing wakes the worker of a suspended mirror, so nobody asks for the slot",
     r"Presuspend\.stop_recovery: regions\.recovery_slots"),
    ("Only a live mount waits there (tests/live)",
     r"Postsuspend\.start"),
    ("The status of a bio that is made again is overwritten",
     r"read_again: bio\.status"),
    ("The range of a merge that does not run is asked only for whether a chunk is in it",
     r"SnapshotMerge\.release: self\.range"),
    ("The device of an empty flush is the mapped one whatever the bio says",
     r"MappedDevice\.submit: self\._flush\(Bio"),
    ("Words of a trace, or of what somebody waits for",
     r"note\(|Wait\(|reads\" if|an area of exceptions|Latch\(|Work\(|what = "),
    ("At rest a region is clean exactly when it is in sync",
     r"compare_areas: if .* or self\.regions"),
    ("What is refused at once ends with the status that it is called with",
     r"MappedDevice\._map: (clone\.status|io\.piece_over\(clone, errno\.EIO\) -> io\.piece_over\(None)"),
    ("Only flushes and discards are numbered",
     r"MappedDevice\._split: self\._map"),
    ("A bio that is pushed back as a piece as long as itself ends as it would; it only has an owner more",
     r"MappedIo\._again: if self\.clones"),
)
