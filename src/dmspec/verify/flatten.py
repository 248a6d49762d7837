"""From a scenario of a spec to a flat list of steps, found out by doing them on the emulator.

Branches, ``expect error`` and conditions are decided by what the emulator does; the guest is then given the same
steps.  If it answers differently, the first step at which it does is the difference to look at.

Of all the orders in which several processes can run, one is taken: a process goes on until it waits (for a lock, a
condition, or because its operation blocks), and every step comes to rest before the next.  What depends on real
concurrency cannot be compared with a kernel that nobody can halt between two steps, so ``parallel``, ``choose`` and
faults at any point are refused, with what the kernel of the guest lacks: another era, simulated filesystems,
I/O that is not in whole sectors, and faults that no layer under a disk can play.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from dmspec.runtime import plan as plans
from dmspec.runtime.errors import errno_number
from dmspec.runtime.operations.base import complete
from dmspec.runtime.process import ProcessTask
from dmspec.runtime.registry import CONDITIONS, OPERATIONS, TARGETS
from dmspec.runtime.runner import scenario_of
from dmspec.runtime.units import SECTOR_BYTES
from dmspec.verify.emulate import Emulated
from dmspec.verify.steps import CONTROL, DiskSpec, Outcome, Played, Step

MOST_STEPS: Final = 2000
_EXPECTATIONS: Final = frozenset({"expect-status", "expect-table", "expect-state", "expect-events"})


class CannotVerify(Exception):
    """The spec has something that cannot be compared; ``line`` says where, 0 if it is nowhere in particular."""

    def __init__(self, text: str, line: int = 0) -> None:
        self.line = line
        super().__init__(text)


class Walker:
    """One process: where it is in its code, and the step that it waits for."""

    def __init__(self, flat: Flatten, process: plans.Process) -> None:
        self.flat = flat
        self.name = process.name
        self.code = process.code
        self.task = ProcessTask(flat.on.world, process)
        self.pc = 0
        self.slots = [0] * process.slots
        self.attempts: list[tuple[int | None, int, int, list[int]]] = []
        self.locks: list[str] = []
        self.todo: list[Step] = []
        self.blocked: Outcome | None = None
        self.ended = False

    def go(self) -> bool:
        """Go on; ``False``: it waits, or has ended."""
        if self.ended or (self.blocked is not None and self.blocked.blocked):
            return False
        if self.blocked is not None:
            outcome, self.blocked = self.blocked, None
            self._over(outcome)
        elif self.todo:
            outcome = self.flat.do(self.todo.pop(0), self.task)
            if outcome.blocked:
                self.blocked = outcome
            else:
                self._over(outcome)
        else:
            return self._instruction(self.code[self.pc])
        return True

    def _over(self, outcome: Outcome) -> None:
        """A step has ended; an error goes to the innermost ``try`` that takes it, or ends the process."""
        if not outcome.error:
            return
        self.todo.clear()
        while self.attempts:
            number, to, locks, slots = self.attempts.pop()
            if number in (None, errno_number(outcome.error)):
                self._unlock_all(locks)
                self.pc, self.slots = to, slots
                return
        self._end()

    def _end(self) -> None:
        self.ended = self.task.ended = True
        self._unlock_all(0)

    def _unlock_all(self, but: int) -> None:
        while len(self.locks) > but:
            self.flat.locks[self.locks.pop()] -= 1

    def _instruction(self, instr: plans.Instr) -> bool:
        args = instr.args
        if instr.op in ("await", "lock"):
            return self._wait(instr)
        self.pc += 1
        if instr.op == "end":
            self._end()
        elif instr.op == "jump":
            self.pc = args["to"]
        elif instr.op == "loop":
            self._loop(args)
        elif instr.op == "try":
            number = errno_number(args["errno"]) if isinstance(args["errno"], str) else args["errno"]
            self.attempts.append((number, args["to"], len(self.locks), list(self.slots)))
        elif instr.op == "end-try":
            self.attempts.pop()
        elif instr.op == "branch":
            if self._holds(instr) == bool(args["negate"]):
                self.pc = args["to"]
        elif instr.op == "unlock":
            self.locks.remove(args["name"])
            self.flat.locks[args["name"]] -= 1
        elif instr.op in ("choose", "fork"):
            word = "choose" if instr.op == "choose" else "parallel"
            raise CannotVerify(f"`{word}` has more than one order of steps, and a guest's kernel takes its own",
                               instr.line)
        elif instr.op not in plans.CONTROL:
            self.todo = list(self.flat.expand(self, instr))
        return True

    def _loop(self, args: dict[str, Any]) -> None:
        if args["times"] is not None and self.slots[args["slot"]] >= args["times"]:
            self.slots[args["slot"]] = 0
            self.pc = args["to"]
        else:
            self.slots[args["slot"]] += 1

    def _holds(self, instr: plans.Instr) -> bool:
        condition = CONDITIONS[instr.args["condition"]].holds
        return condition(self.task, instr.args["args"])

    def _wait(self, instr: plans.Instr) -> bool:
        if instr.op == "lock":
            name = instr.args["name"]
            if self.flat.locks.get(name, 0) and name not in self.locks:
                return False
            self.flat.locks[name] = self.flat.locks.get(name, 0) + 1
            self.locks.append(name)
        elif not self._holds(instr):
            return False
        elif instr.args["condition"] == "event":
            device = instr.args["args"]["device"]
            world = self.flat.on.world
            seen = world.registered if instr.args["args"]["registered"] else self.task.seen_events
            seen[device] = world.stack.devices[device].event_nr
        self.pc += 1
        return True


class Flatten:
    """Runs a scenario on the emulator, step by step."""

    def __init__(self, plan: plans.Plan, scenario: plans.Scenario) -> None:
        self.plan = plan
        self.scenario = scenario
        self._refuse()
        self.on = Emulated([DiskSpec(one.name, one.sectors) for one in plan.disks])
        self.locks: dict[str, int] = {}
        self.cursors: dict[tuple[str, str], int] = {}
        self.writes: dict[str, int] = {}

    def _refuse(self) -> None:
        era = self.scenario.kernel or self.plan.kernel
        if era != "now":
            raise CannotVerify(f"it asks for kernel {era}, and the guest has another one")
        if self.plan.filesystems:
            one = self.plan.filesystems[0]
            raise CannotVerify(f"filesystem {one.name} is simulated, and the guest has none like it", one.line)
        for disk in self.plan.disks:
            if disk.file is not None:
                raise CannotVerify(f"disk {disk.name} is a file, which `verify` leaves alone", disk.line)
        for fault in self.scenario.faults:
            if "start" not in fault.at:
                raise CannotVerify(f"fault {fault.kind} strikes in the midst of a step, where a guest cannot be "
                                   "halted; only at=start can be compared", fault.line)

    def run(self, name: str) -> Played:
        """All of it."""
        for device in self.plan.devices:
            args = {"name": device.name, "table": list(device.table), "uuid": device.uuid,
                    "read_only": device.read_only}
            if self.do(Step("create", args, device.line), self.on.process).error:
                return self.on.played(name)
        for fault in self.scenario.faults:
            for step in self._fault(fault.kind, fault.args, fault.line):
                self.do(step, self.on.process)
        walkers = [Walker(self, self.plan.process(one)) for one in self.scenario.run]
        self.on.world.processes.update({one.name: one.task for one in walkers})
        while any(walker.go() for walker in walkers):
            pass
        return self.on.played(name)

    def do(self, step: Step, task: ProcessTask) -> Outcome:
        """Do a step on the emulator."""
        if len(self.on.steps) >= MOST_STEPS:
            raise CannotVerify(f"it has more than {MOST_STEPS} steps", step.line)
        return self.on.do(step, task)

    def expand(self, walker: Walker, instr: plans.Instr) -> Iterator[Step]:
        """The steps that an operation comes to."""
        operation = OPERATIONS[instr.op]
        args = complete(operation.signature, instr.args)
        op, line = instr.op, instr.line
        if op in _EXPECTATIONS:
            yield Step("look", {}, line)
        elif op in ("write", "read"):
            yield from self._transfers(walker, op, args, line)
        elif op in ("register", "unregister"):     # between LVM and dmeventd, of which a kernel knows nothing
            assert operation.perform is not None
            operation.perform(walker.task, args)
        elif op in ("flush", "discard", "wipe"):
            if op != "flush":
                self._whole(args["at"], args["size"], line)
            yield Step(op, args, line)
        elif op in ("sha256", "expect-sha256", "expect-content", "expect-same"):
            yield from self._reads(op, args, line)
        elif op in ("suspend", "resume", "remove"):
            for device in args["device"]:
                yield Step(op, args | {"device": [device]}, line)
        elif op in CONTROL or op == "sleep":
            yield Step(op, args, line)
        elif operation.is_fault:
            yield from self._fault(op, args, line)
        else:
            raise CannotVerify(f"`{op}` is the emulator's alone", line)

    def _fault(self, op: str, given: dict[str, Any], line: int) -> Iterator[Step]:
        args = complete(OPERATIONS[op].signature, given)
        if op not in ("fail", "heal"):
            raise CannotVerify(f"no layer under a disk of the guest can do `{op}`", line)
        if args.get("error", "EIO") != "EIO":
            raise CannotVerify(f"a disk of the guest fails with EIO, not with {args['error']}", line)
        if args.get("after") or args.get("times") is not None:
            raise CannotVerify("a disk of the guest does not count how often it has failed", line)
        if args.get("range") is not None and args["range"][0] % SECTOR_BYTES:
            raise CannotVerify("a disk of the guest fails in whole sectors", line)
        yield Step(op, args, line)

    @staticmethod
    def _whole(at: int, size: int, line: int) -> None:
        if at % SECTOR_BYTES or size % SECTOR_BYTES:
            raise CannotVerify("I/O around the page cache is in whole sectors, and this is not", line)

    def _size(self, name: str) -> int:
        stack = self.on.world.stack
        found = stack.disks.get(name) or stack.devices.get(name)
        return found.sectors * SECTOR_BYTES if found is not None else 0

    def _transfers(self, walker: Walker, op: str, args: dict[str, Any], line: int) -> Iterator[Step]:
        """``times`` reads or writes, where the process's last one on the same target ended if ``at`` is not said."""
        key = f"{walker.name} {op}", args["target"]
        size, at, origin = args["size"], args["at"], None
        for _ in range(args["times"]):
            offset = self.cursors.get(key, 0) if at is None else at
            if at is None:
                offset = offset if offset + size <= self._size(args["target"]) else 0
                self.cursors[key] = offset + size
            else:
                at += size
            origin = offset if origin is None else origin
            self._whole(offset, size, line)
            if op == "read":
                yield Step(op, {"target": args["target"], "at": offset, "size": size, "times": 1}, line)
                continue
            number = self.writes[walker.name] = self.writes.get(walker.name, 0) + 1
            pattern = f"{walker.name}#{number}" if args["pattern"] is None else args["pattern"]
            yield Step(op, args | {"at": offset, "times": 1, "pattern": pattern, "fua": False}, line)

    def _reads(self, op: str, args: dict[str, Any], line: int) -> Iterator[Step]:
        targets = [args["first"], args["second"]] if op == "expect-same" else [args["target"]]
        for target in targets:
            if op == "expect-content":
                at, size = args["at"], args["size"]
            else:
                at, size = args["range"] or (0, self._size(target))
            self._whole(at, size, line)
            yield Step("read", {"target": target, "at": at, "size": size, "times": 1}, line)


def flatten(plan: plans.Plan, scenario: str, name: str) -> Played:
    """Run a scenario on the emulator.  Raises :class:`CannotVerify`."""
    return Flatten(plan, scenario_of(plan, scenario)).run(name)


def target_types(plan: plans.Plan) -> set[str]:
    """The target types that a plan's devices and operations name."""
    tables = [device.table for device in plan.devices]
    tables += [instr.args["table"] for process in plan.processes for instr in process.code
               if isinstance(instr.args.get("table"), list)]
    words = {line.split()[2] for table in tables for line in table if len(line.split()) > 2}
    return words & set(TARGETS)
