"""Make a differing sequence short: leave out steps as long as it still differs."""

from dmspec.runtime.errors import DmError
from dmspec.verify.emulate import NoRest, play
from dmspec.verify.session import Session, Verdict
from dmspec.verify.steps import Case, Played

MOST_ROUNDS = 8


def without(played: Played, numbers: set[int]) -> Played | None:
    """The case without some of its steps; ``None``: it cannot be compared any more."""
    case = played.case
    steps = tuple(step for number, step in enumerate(case.steps) if number not in numbers)
    try:
        shorter = play(Case(case.name, case.disks, steps))
    except (NoRest, DmError, KeyError):
        return None
    return None if shorter.wedged else shorter


def shrink(session: Session, verdict: Verdict) -> Verdict:
    """Each round tries to leave out each step, and everything behind the first difference, in one boot."""
    for _ in range(MOST_ROUNDS):
        count = len(verdict.played.steps)
        first = min((one.step for one in verdict.differences if one.step >= 0), default=count - 1)
        ways = [set(range(first + 1, count)), *({number} for number in range(count))]
        tries = [shorter for way in ways if way and (shorter := without(verdict.played, way)) is not None]
        still = [one for one in session.compare(tries) if one.differences] if tries else []
        if not still:
            break
        verdict = min(still, key=lambda one: len(one.played.steps))
    return verdict
