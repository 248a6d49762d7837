"""From the model to the plan: control flow becomes jumps, so that a process is a counter and its locals."""

from __future__ import annotations

from typing import Any

from dmspec.compiler.model import (
    Awaited,
    Caught,
    Chosen,
    Conditional,
    Forked,
    Inlined,
    Locked,
    Model,
    Perform,
    Place,
    ProcessModel,
    Repeated,
    Step,
)
from dmspec.runtime.plan import Instr, Plan, Process


def lower(model: Model) -> Plan:
    """The plan of a model that has no errors."""
    return Plan(
        files=model.files, source_sha256=model.source_sha256, kernel=model.kernel, disks=model.disks,
        devices=model.devices, filesystems=model.filesystems, locks=model.locks,
        processes=[lower_process(one) for one in model.processes],
        scenarios=model.scenarios, properties=model.properties,
    )


def lower_process(model: ProcessModel) -> Process:
    """Flatten one process."""
    code = _Code()
    code.steps(model.body)
    code.emit("end", Place(0, model.line))
    return Process(model.name, code.instrs, code.slots, model.line)


class _Code:
    """Code as it grows.  A jump to what is not there yet is emitted first, and given its target later."""

    def __init__(self) -> None:
        self.instrs: list[Instr] = []
        self.slots = 0

    def emit(self, op: str, place: Place, **args: Any) -> Instr:
        instr = Instr(op, args, place.file, place.line)
        self.instrs.append(instr)
        return instr

    @property
    def here(self) -> int:
        """Where the next instruction will be."""
        return len(self.instrs)

    def steps(self, steps: tuple[Step, ...]) -> None:
        """Emit steps one after the other."""
        for step in steps:
            self._step(step)

    def _step(self, step: Step) -> None:
        if isinstance(step, Perform):
            self.emit(step.op, step.place, **step.args)
        elif isinstance(step, Locked):
            self.emit("lock", step.place, name=step.lock)
            self.steps(step.body)
            self.emit("unlock", step.place, name=step.lock)
        elif isinstance(step, Inlined):
            self.emit("enter", step.place, procedure=step.procedure)
            self.steps(step.body)
            self.emit("leave", step.place, procedure=step.procedure)
        elif isinstance(step, Awaited):
            self.emit("await", step.place, condition=step.condition, args=step.args, within_ns=step.within_ns)
        elif isinstance(step, Caught):
            self._caught(step)
        elif isinstance(step, Conditional):
            self._conditional(step)
        elif isinstance(step, Repeated):
            self._repeated(step)
        elif isinstance(step, Chosen):
            self._chosen(step)
        else:
            self._forked(step)

    def _caught(self, step: Caught) -> None:
        opened = self.emit("try", step.place, errno=step.errno, must=step.must, to=0)
        self.steps(step.body)
        self.emit("end-try", step.place, errno=step.errno, must=step.must)
        opened.args["to"] = self.here

    def _conditional(self, step: Conditional) -> None:
        branch = self.emit("branch", step.place, condition=step.condition, args=step.args,
                           negate=step.negate, to=0)
        self.steps(step.then)
        if step.otherwise:
            over = self.emit("jump", step.place, to=0)
            branch.args["to"] = self.here
            self.steps(step.otherwise)
            over.args["to"] = self.here
        else:
            branch.args["to"] = self.here

    def _repeated(self, step: Repeated) -> None:
        slot = self.slots
        self.slots += 1
        head = self.here
        loop = self.emit("loop", step.place, slot=slot, times=step.times, to=0)
        self.steps(step.body)
        self.emit("jump", step.place, to=head)
        loop.args["to"] = self.here

    def _chosen(self, step: Chosen) -> None:
        starts: list[int] = []
        self.emit("choose", step.place, to=starts)
        ends = []
        for index, body in enumerate(step.bodies):
            starts.append(self.here)
            self.steps(body)
            if index < len(step.bodies) - 1:
                ends.append(self.emit("jump", step.place, to=0))
        for end in ends:
            end.args["to"] = self.here

    def _forked(self, step: Forked) -> None:
        starts: list[int] = []
        fork = self.emit("fork", step.place, starts=starts, to=0)
        for body in step.bodies:
            starts.append(self.here)
            self.steps(body)
            self.emit("end", step.place)
        fork.args["to"] = self.here
