"""The processes of a scenario as Promela: one step for each instruction, with the line of the spec beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from dmspec.compiler.backends.promela_flow import Attempt, Held, Task, without
from dmspec.compiler.backends.promela_model import Model
from dmspec.compiler.backends.promela_tables import Names, NotInTheModel
from dmspec.runtime.operations.base import NO_ERROR
from dmspec.runtime.plan import Instr
from dmspec.runtime.registry import CONDITIONS, OPERATIONS

FAILS: Final = {"all": "READS | WRITES", "reads": "READS", "writes": "WRITES"}
SILENT: Final = ("enter", "leave")
CONTENT: Final = ("sha256", "expect-sha256")


class Writer:
    """Writes one task."""

    def __init__(self, model: Model, task: Task) -> None:
        self.model = model
        self.task = task
        self.names = model.names
        self.lines: list[str] = []
        self.failures: list[tuple[Held, str]] = []
        self.jumps: set[int] = set()
        self.uses_kernel = False
        self.locals = {"status": "byte"}

    def proctype(self) -> str:
        """The whole of it."""
        pcs = sorted(pc for pc in self.task.held if self._real(pc))
        body: list[tuple[int, list[str]]] = []
        for pc in pcs:
            self.lines = []
            self._instr(pc, self.task.process.code[pc])
            body.append((pc, self.lines))
        text = [f"proctype {self.name}(byte me; byte process) {{"]
        text += [f"    {kind} {name};" for name, kind in self.locals.items()]
        if body and body[0][0] != self._resolve(self.task.start):
            text.append(f"    goto {self._label(self.task.start)};")
        for index, (pc, lines) in enumerate(body):
            if pc in self.jumps:
                text.append(f"at_{pc}:")
            text += [line if line.startswith("end_") else f"    {line}" for line in lines]
            following = body[index + 1][0] if index + 1 < len(body) else None
            after = self._falls_to(pc)
            if after is not None and after != following:
                text.insert(len(text), f"    goto at_{after};")
                assert after in self.jumps
        text += self._ways_out()
        text += self._over()
        return "\n".join([*text, "}"])

    @property
    def name(self) -> str:
        """The proctype's name."""
        return "process_" + "".join(char if char.isascii() and char.isalnum() else "_" for char in self.task.name)

    # Where to go

    def _real(self, pc: int) -> bool:
        return self.task.process.code[pc].op not in (*SILENT, "jump")

    def _resolve(self, pc: int) -> int:
        """Pass over what is nothing but a way on."""
        code = self.task.process.code
        seen = set()
        while not self._real(pc) and pc not in seen:
            seen.add(pc)
            pc = code[pc].args["to"] if code[pc].op == "jump" else pc + 1
        return pc

    def _label(self, pc: int) -> str:
        pc = self._resolve(pc)
        self.jumps.add(pc)
        return f"at_{pc}"

    def _falls_to(self, pc: int) -> int | None:
        """Where it goes on behind an instruction; ``None`` where the instruction itself says so."""
        instr = self.task.process.code[pc]
        if instr.op in ("end", "choose"):
            return None
        return self._resolve(instr.args["to"] if instr.op == "fork" else pc + 1)

    def note_jumps(self) -> None:
        """Every place that does not follow on what comes before it needs a label."""
        pcs = sorted(pc for pc in self.task.held if self._real(pc))
        for pc, following in zip(pcs, [*pcs[1:], None], strict=True):
            after = self._falls_to(pc)
            if after is not None and after != following:
                self.jumps.add(after)

    def _ways_out(self) -> Iterator[str]:
        """What an error comes to: the next ``try`` that takes it, or the end of the process."""
        for number, (held, check) in enumerate(self.failures):
            yield ""
            yield f"fails_{number}:"
            locks = held.locks
            taken_always = False
            for attempt in reversed(held.attempts):
                lets_go = "".join(f" let_go({self.names.macro('LOCK', one)});"
                                  for one in dict.fromkeys(locks[attempt.locks:]) if one not in locks[:attempt.locks])
                slots = "".join(f" slot_{slot} = 0;" for slot in self._slots_in(attempt))
                jump = f"status = OK;{lets_go}{slots} goto {self._label(attempt.to)}"
                if attempt.errno is None:
                    yield f"    {jump};"
                    taken_always = True
                    break
                yield f"    if :: status == {attempt.errno} -> {jump} :: else fi;"
            if taken_always:
                continue
            yield from self._uncaught(check)
            for one in dict.fromkeys(locks):
                yield f"    let_go({self.names.macro('LOCK', one)});"
            yield "    goto over;"

    def _uncaught(self, check: str) -> Iterator[str]:
        outer = self.task.outer_attempts()
        if not check or not self.model.asks(check, self.task.root) or any(one.errno is None for one in outer):
            return
        caught = "".join(f"status == {one.errno} || " for one in outer)
        yield f"    assert({caught}{check.replace('-', '_')});"

    def _slots_in(self, attempt: Attempt) -> list[int]:
        code = self.task.process.code
        return [code[pc].args["slot"] for pc in self.task.held
                if code[pc].op == "loop" and attempt.pc < pc < attempt.to]

    def _over(self) -> Iterator[str]:
        yield ""
        yield "over:"
        if self.task.parent is None:
            yield "    ended[process] = true"
        else:
            yield f"    failure_{self.name} = status;"
            yield f"    over_{self.name} = true"

    # Instructions

    def _instr(self, pc: int, instr: Instr) -> None:
        operation = OPERATIONS.get(instr.op)
        words = operation.words(instr.args) if operation is not None else _words(instr)
        self.say(f"/* {self.model.files[instr.file]}:{instr.line}: {words.replace('*/', '* /')} */")
        handler: Callable[[int, Instr], None] | None = getattr(self, "_" + instr.op.replace("-", "_"), None)
        if handler is None:
            self.model.issue(instr, f"the model cannot have `{words}`")
            return
        try:
            handler(pc, instr)
        except NotInTheModel as error:
            self.model.issue(instr, str(error))

    def say(self, *lines: str) -> None:
        """Write lines."""
        self.lines += lines

    def may_fail(self, pc: int, check: str) -> None:
        """Leave, where the status is an error."""
        key = (self.task.held[pc], check)
        if key not in self.failures:
            self.failures.append(key)
        self.say(f"if :: status != OK -> goto fails_{self.failures.index(key)} :: else fi;")

    def _ask(self, what: str, place: str, one: str = "0", two: str = "0") -> str:
        self.uses_kernel = True
        return f"ASK({what}, {place}, {one}, {two})"

    def _end(self, pc: int, instr: Instr) -> None:
        del pc, instr
        self.say("goto over;")

    def _lock(self, pc: int, instr: Instr) -> None:
        self.say(f"take({self.names.macro('LOCK', instr.args['name'])});")

    def _unlock(self, pc: int, instr: Instr) -> None:
        name = instr.args["name"]
        kept = name in without(self.task.held[pc].locks, name)
        self.say("skip;" if kept else f"let_go({self.names.macro('LOCK', name)});")

    def _try(self, pc: int, instr: Instr) -> None:
        self.say("skip;")

    def _end_try(self, pc: int, instr: Instr) -> None:
        self.say("assert(expectation);" if instr.args["must"] else "skip;")

    def _loop(self, pc: int, instr: Instr) -> None:
        times, slot = instr.args["times"], f"slot_{instr.args['slot']}"
        if times is None:
            self.say("skip;")
            return
        self.locals[slot] = "byte" if times < 256 else "int"
        self.say(f"if :: {slot} >= {times} -> {slot} = 0; goto {self._label(instr.args['to'])} "
                 f":: else -> {slot}++ fi;")

    def _choose(self, pc: int, instr: Instr) -> None:
        self.say("if", *(f":: goto {self._label(to)}" for to in instr.args["to"]), "fi;")

    def _branch(self, pc: int, instr: Instr) -> None:
        holds = self._condition(instr)
        if instr.args["negate"]:
            holds = f"!({holds})"
        self.say(f"if :: {holds} :: else -> goto {self._label(instr.args['to'])} fi;")

    def _await(self, pc: int, instr: Instr) -> None:
        condition = CONDITIONS[instr.args["condition"]]
        holds = self._condition(instr)
        seen = ""
        if condition.name == "event" and instr.args["args"]["device"] in self.names.devices:
            device = instr.args["args"]["device"]
            last = self._last_seen(device, registered=instr.args["args"]["registered"])
            seen = f" -> {last} = event_nr[{self.names.device(device)}]"
        if instr.args["within_ns"] is not None:
            self.say(f"if :: atomic {{ {holds}{seen} }} :: status = ETIME fi;   /* time may pass at any moment */")
            self.may_fail(pc, NO_ERROR)
            return
        if condition.idle and not self.task.held[pc].locks and self.task.parent is None:
            if self._resolve(pc) in self.jumps or pc == self.task.start:
                self.say("skip;")
            self.say(f"end_{pc}:      /* it may wait here for ever, as a daemon does */")
        self.say(f"atomic {{ {holds}{seen} }};")

    def _seen(self, device: str) -> str:
        name = f"seen_{self.names.macro('PROCESS', self.task.root)}_{self.names.device(device)}"
        declared = f"byte {name};"
        if declared not in self.model.globals:
            self.model.globals.append(declared)
        if device not in self.model.awaited:
            self.model.awaited.append(device)
        return name

    def _last_seen(self, device: str, *, registered: bool) -> str:
        """What holds the number of the last event that was seen: the process's own, or dmeventd's."""
        if not registered:
            return self._seen(device)
        if device not in self.model.awaited:
            self.model.awaited.append(device)
        return f"heard[{self.names.device(device)}]"

    def _letter(self, args: dict[str, Any]) -> str:
        """Of a mirror's legs the model knows A, D and R, of its log A and D."""
        device = self.names.device(args["device"])
        legs = 255 if args["leg"] is None else 1 << args["leg"]
        found = [] if args["log"] else [f"LEGS_{one}({device}, {legs})" for one in "ADR" if one in args["letters"]]
        if args["log"] or args["leg"] is None:
            found += [f"LOG_{one}({device})" for one in "AD" if one in args["letters"]]
        return f"({' || '.join(found) or 'false'})"

    def _condition(self, instr: Instr) -> str:
        name, args = instr.args["condition"], instr.args["args"]
        if name == "done":
            other = args["process"]
            return f"ended[{self.names.macro('PROCESS', other)}]" if other in self.model.running else "false"
        if name == "failed":
            return f"(failing[{self.names.disk(args['disk'])}] != 0)"
        if name not in ("event", "suspended", "active", "exists", "registered", "letter"):
            self.model.issue(instr, f"the model cannot ask `{CONDITIONS[name].words(args)}`")
            return "false"
        if args["device"] not in self.names.devices:
            return "false"
        device = self.names.device(args["device"])
        if name == "letter":
            return self._letter(args)
        if name == "event":
            watched = f"registered[{device}] && " if args["registered"] else ""
            return f"({watched}event_nr[{device}] != {self._last_seen(args['device'], registered=args['registered'])})"
        return {"registered": lambda: f"registered[{device}]",
                "suspended": lambda: f"suspended[{device}]",
                "active": lambda: f"(live[{device}] != NO_TABLE && !suspended[{device}])",
                "exists": lambda: f"exists[{device}]"}[name]()

    def _fork(self, pc: int, instr: Instr) -> None:
        branches = self.task.branches[pc]
        names = [Writer(self.model, one).name for one in branches]
        for branch, name in zip(branches, names, strict=True):
            declared = f"bool over_{name}; byte failure_{name};"
            if declared not in self.model.globals:
                self.model.globals.append(declared)
            root = self.names.macro("PROCESS", self.task.root)
            self.say(f"over_{name} = false; run {name}({self.names.macro('CALLER', branch.name)}, {root});")
        self.say(" && ".join(f"over_{name}" for name in names) + ";")
        self.say("if", *(f":: {''.join(f'failure_{other} == OK && ' for other in names[:index])}failure_{name} != OK "
                         f"-> status = failure_{name}" for index, name in enumerate(names)), ":: else", "fi;")
        self.may_fail(pc, "")

    # Control operations

    def _create(self, pc: int, instr: Instr) -> None:
        args = instr.args
        device = self.names.device(args["name"])
        self.say(f"create({device});")
        if args["table"] is not None:
            table = self._table(args["name"], args["table"])
            if not table.startswith("TABLE_"):
                self.locals["table"] = "byte"
                self.say(f"table = {table};")
                table = "table"
            self.say("if", ":: status == OK ->", f"    put_table({device}, {table});",
                     f"    if :: status == OK -> {self._ask('RESUME', device)} :: else fi;",
                     f"    if :: status != OK -> exists[{device}] = false; inactive[{device}] = NO_TABLE :: else fi",
                     ":: else", "fi;")
        self.may_fail(pc, NO_ERROR)

    def _load(self, pc: int, instr: Instr) -> None:
        device = self._known(instr.args["device"])
        table = self._table(instr.args["device"], instr.args["table"])
        if table.startswith("TABLE_"):
            self.say(f"load({device}, {table});")
        else:
            self.locals["table"] = "byte"
            self.say("atomic {", f"    table = {table};", f"    load({device}, table);", "    table = NO_TABLE", "};")
        self.may_fail(pc, NO_ERROR)

    def _remove(self, pc: int, instr: Instr) -> None:
        if instr.args["force"] or instr.args["deferred"]:
            raise NotInTheModel("a removal that is forced or deferred")
        self.locals["one"] = "byte"
        devices = [self._known(one) for one in instr.args["device"]]
        self.say("status = OK;")
        self.say(*(f"if :: status == OK -> remove({one}) :: else fi;" for one in devices))
        self.may_fail(pc, NO_ERROR)

    def _clear(self, pc: int, instr: Instr) -> None:
        self.say(f"clear({self._known(instr.args['device'])});")
        self.may_fail(pc, NO_ERROR)

    def _table(self, device: str, table: list[str] | dict[str, str] | None) -> str:
        if table is None:
            raise NotInTheModel("a table is missing")
        if isinstance(table, dict):
            source = self._known(table["table_of"])
            if table["table_of"] in self.names.sizes:
                self.names.sizes.setdefault(device, self.names.sizes[table["table_of"]])
            return f"(live[{source}] != NO_TABLE -> live[{source}] : inactive[{source}])"
        return self.names.add_table(device, table)

    def _known(self, device: str) -> str:
        if device not in self.names.devices:
            raise NotInTheModel(f"no process of this scenario creates {device}")
        return self.names.device(device)

    def _suspend(self, pc: int, instr: Instr) -> None:
        args = instr.args
        flags = " | ".join(word for word, on in (("NOFLUSH", args["noflush"]), ("NOLOCKFS", args["nolockfs"])) if on)
        self._in_turn(instr, "SUSPEND", "enters", flags or "0")
        self.may_fail(pc, NO_ERROR)

    def _resume(self, pc: int, instr: Instr) -> None:
        args = instr.args
        flags = " | ".join(word for word, on in (("NOFLUSH", args["noflush"]), ("NOLOCKFS", args["nolockfs"])) if on)
        self.locals["all_there"] = "bool"
        self._in_turn(instr, "RESUME", "swaps", flags or "0")
        self.locals["one"] = self.locals["other"] = "byte"
        leaves = " ".join(f"leaves({self._known(one)});" for one in args["device"])
        self.say(f"if :: all_there -> atomic {{ {leaves} two_writers(); all_there = false }} :: else fi;")
        self.may_fail(pc, NO_ERROR)

    def _in_turn(self, instr: Instr, what: str, begins: str, flags: str) -> None:
        """Everything that is named is looked up first; then one after the other, to the first error."""
        devices = [self._known(one) for one in instr.args["device"]]
        there = " ".join(f"must_exist({one});" for one in devices)
        begun = "; ".join(f"{begins}({one})" for one in devices)
        all_there = "all_there = true; " if what == "RESUME" else ""
        self.say("atomic {", f"    status = OK; {there}", f"    if :: status == OK -> {all_there}{begun} :: else fi",
                 "};")
        for device in devices:
            self.say("if", f":: status == OK -> {self._ask(what, device, flags)}", ":: else", "fi;")

    def _register(self, pc: int, instr: Instr) -> None:
        past = str(bool(instr.args["past"])).lower()
        self.say(f"enroll({self._known(instr.args['device'])}, {past});")
        self.may_fail(pc, NO_ERROR)

    def _unregister(self, pc: int, instr: Instr) -> None:
        self.say(f"registered[{self._known(instr.args['device'])}] = false;")

    # Reads and writes

    def _wipe(self, pc: int, instr: Instr) -> None:
        self._transfer(pc, instr, "WRITE")

    def _write(self, pc: int, instr: Instr) -> None:
        self._transfer(pc, instr, "WRITE")

    def _read(self, pc: int, instr: Instr) -> None:
        self._transfer(pc, instr, "READ")

    def _flush(self, pc: int, instr: Instr) -> None:
        self._transfer(pc, instr, "FLUSH")

    def _transfer(self, pc: int, instr: Instr, what: str) -> None:
        target = instr.args["target"]
        ask = self._io(what, target)
        changed = [f"version[{number}]++" for number, (name, range_) in enumerate(self.model.documents)
                   if what == "WRITE" and name == target and _touches(instr.args, range_)]
        if changed:
            ask += f"; if :: status == OK -> {'; '.join(changed)} :: else fi"
        times = instr.args.get("times", 1)
        if times == 1:
            self.say(f"{ask};")
        elif times:
            self.locals["count"] = "byte" if times < 256 else "int"
            self.say("do", f":: status == OK && count < {times} -> {ask}; count++", ":: else -> break", "od;",
                     "count = 0;")
        else:
            self.say("skip;")
        self.may_fail(pc, OPERATIONS[instr.op].violates)

    def _io(self, what: str, target: str) -> str:
        filesystem = "NO_FILESYSTEM"
        if target in self.names.filesystems:
            if what == "WRITE":
                filesystem = self.names.macro("FS", target)
            target = self.names.filesystems[target]
        if target in self.names.disks:
            return self._ask(what, self.names.place(target), filesystem)
        device = self._known(target)
        return f"if :: exists[{device}] -> {self._ask(what, device, filesystem)} :: else -> status = ENXIO fi"

    def _sha256(self, pc: int, instr: Instr) -> None:
        args = instr.args
        self.say(f"{self._io('READ', args['target'])};")
        self.may_fail(pc, OPERATIONS[instr.op].violates)
        if args.get("as") is not None:
            document = self.model.document(args["target"], args["range"])
            self.say(f"remembered[{self.model.word(args['as'])}] = version[{document}] + 1;")

    def _expect_sha256(self, pc: int, instr: Instr) -> None:
        args = instr.args
        if args["value"] is not None:
            raise NotInTheModel("a sha256 by its value: contents are only told apart by who wrote them")
        self.say(f"{self._io('READ', args['target'])};")
        self.may_fail(pc, OPERATIONS[instr.op].violates)
        if args["same_as"] is not None:
            document = self.model.document(args["target"], args["range"])
            remembered = f"remembered[{self.model.word(args['same_as'])}]"
            self.say(f"assert({remembered} == version[{document}] + 1 || expectation);")

    def _expect_state(self, pc: int, instr: Instr) -> None:
        device = self._known(instr.args["device"])
        holds = {"ABSENT": f"!exists[{device}]", "SUSPENDED": f"suspended[{device}]",
                 "ACTIVE": f"(exists[{device}] && !suspended[{device}])"}[instr.args["state"]]
        self.say(f"assert({holds} || expectation);")

    def _freeze(self, pc: int, instr: Instr) -> None:
        self._of_filesystem(pc, instr, "FREEZE")

    def _thaw(self, pc: int, instr: Instr) -> None:
        self._of_filesystem(pc, instr, "THAW")

    def _of_filesystem(self, pc: int, instr: Instr, what: str) -> None:
        self.say(f"{self._ask(what, '0', '0', self.names.macro('FS', instr.args['filesystem']))};")
        self.may_fail(pc, NO_ERROR)

    def _sleep(self, pc: int, instr: Instr) -> None:
        self.say("skip;                      /* time may pass at any moment */")

    # Faults

    def _fail(self, pc: int, instr: Instr) -> None:
        self.say(fault(self.names, instr.op, instr.args) + ";")

    _heal = _detach = _delay = _fail


def fault(names: Names, kind: str, args: dict[str, Any]) -> str:
    """A fault as a statement; raises :class:`NotInTheModel`."""
    if kind not in ("fail", "heal", "detach", "delay"):
        raise NotInTheModel(f"the fault {kind}: the model's disks fail, are detached and heal")
    if args.get("range") is not None:
        raise NotInTheModel("a fault of a range: the model's disks fail as a whole")
    disk = f"failing[{names.disk(args['disk'])}]"
    if kind == "delay":
        return "skip /* a delay: time may pass at any moment */"
    if kind == "heal":
        return f"{disk} = 0"
    what = FAILS["all" if kind == "detach" else args.get("what", "all")]
    return f"{disk} = {disk} | {what}"


def _touches(args: dict[str, Any], range_: tuple[int, int] | None) -> bool:
    """Whether a write changes a range."""
    if range_ is None or args.get("at") is None:
        return True
    end = args["at"] + args["size"] * args["times"]
    return bool(args["at"] < range_[0] + range_[1] and range_[0] < end)


def _words(instr: Instr) -> str:
    """A control instruction as a spec would say it."""
    args = instr.args
    if "condition" in args:
        word = "if" if instr.op == "branch" else instr.op
        return f"{word} {'not ' if args.get('negate') else ''}{CONDITIONS[args['condition']].words(args['args'])}"
    return f"{instr.op} {args['name']}" if "name" in args else instr.op
