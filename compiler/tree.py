"""From Lark's tree to the nodes of :mod:`dmspec.compiler.ast`, one method per rule of the grammar."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, cast

from lark import Token, Tree

from dmspec.compiler import ast
from dmspec.compiler.diagnostics import Diagnostic, Sink
from dmspec.compiler.source import Source, Span

Node = Tree[Token] | Token
_ESCAPES = {"n": "\n", "t": "\t", '"': '"', "\\": "\\"}


def _else(before: ast.If, block: ast.Block) -> ast.If | None:
    """An `if` with an `else` added, at the end of its chain of `else if`; ``None`` when it has one."""
    last = before.otherwise
    if last is None:
        return ast.If(before.condition, before.then, block, before.span.to(block.span))
    inner = last.statements[0] if last.statements else None
    if last.span.text.startswith("{") or not isinstance(inner, ast.If):
        return None
    joined = _else(inner, block)
    if joined is None:
        return None
    chained = ast.Block((joined,), joined.span)
    return ast.If(before.condition, before.then, chained, before.span.to(block.span))


class Builder:
    """Builds the nodes of one piece of a source; ``base`` is where that piece begins in it."""

    def __init__(self, source: Source, base: int, limit: int, sink: Sink) -> None:
        self.source = source
        self.base = base
        self.limit = limit
        self.sink = sink

    def file(self, tree: Tree[Token]) -> list[ast.Declaration]:
        """The declarations of a piece that was parsed as a file."""
        return [cast(ast.Declaration, self._node(child)) for child in tree.children]

    def statements(self, tree: Tree[Token]) -> tuple[ast.Statement, ...]:
        """The statements of a piece that was parsed as a body."""
        return self._statements(tree.children)

    # ---- places and small things

    def _span(self, node: Node) -> Span:
        if isinstance(node, Token):
            return self._clamped(node.start_pos or 0, node.end_pos or 0)
        if node.meta.empty:
            return self._clamped(0, 0)
        return self._clamped(node.meta.start_pos, node.meta.end_pos)

    def _clamped(self, start: int, end: int) -> Span:
        first = max(0, min(self.base + start, self.limit))
        return Span(self.source, first, max(first, min(self.base + end, self.limit)))

    def _node(self, node: Node) -> Any:
        assert isinstance(node, Tree), node
        build: Callable[[Tree[Token]], Any] = getattr(self, f"_{node.data}")
        return build(node)

    def _nodes(self, nodes: Iterable[Node]) -> tuple[Any, ...]:
        return tuple(self._node(node) for node in nodes)

    def _name(self, node: Node) -> ast.Word:
        assert isinstance(node, Token), node
        return ast.Word(str(node), self._span(node))

    def _key(self, node: Node) -> ast.Word:
        """A key without the `=` that its token has at the end."""
        text = str(node)[:-1].rstrip()
        span = self._span(node)
        return ast.Word(text, Span(span.source, span.start, span.start + len(text)))

    def _unquoted(self, node: Node) -> ast.Text:
        quoted = str(node)[1:-1]
        for match in re.finditer(r"\\(.)", quoted):
            if match[1] not in _ESCAPES:
                start = self._span(node).start + 1 + match.start()
                self.sink.add(Diagnostic(
                    "DM006", f"`{match[0]}` means nothing in a text", Span(self.source, start, start + 2),
                    expected=r'`\n`, `\t`, `\"` or `\\`',
                ))
        value = re.sub(r"\\(.)", lambda match: _ESCAPES.get(match[1], match[0]), quoted)
        return ast.Text(value, self._span(node))

    # ---- expressions

    def _word(self, tree: Tree[Token]) -> ast.Word:
        return self._name(tree.children[0])

    def _template(self, tree: Tree[Token]) -> ast.Template:
        return ast.Template(tuple(re.split(r"[{}]", str(tree.children[0]))), self._span(tree))

    def _quantity(self, tree: Tree[Token]) -> ast.Quantity:
        return self._number(tree.children[0])

    _decimal = _quantity

    def _number(self, node: Node) -> ast.Quantity:
        return ast.Quantity(str(node), self._span(node))

    def _text(self, tree: Tree[Token]) -> ast.Text:
        return self._unquoted(tree.children[0])

    def _range(self, tree: Tree[Token]) -> ast.Range:
        offset, length = (self._number(child) for child in tree.children)
        return ast.Range(offset, length, self._span(tree))

    def _located(self, tree: Tree[Token]) -> ast.Located:
        name, offset = self._nodes(tree.children)
        return ast.Located(name, offset, self._span(tree))

    def _joined(self, tree: Tree[Token]) -> ast.Joined:
        return ast.Joined(tuple(self._name(child) for child in tree.children), self._span(tree))

    def _function(self, tree: Tree[Token]) -> ast.Function:
        name, *args = tree.children
        return ast.Function(self._name(name), self._nodes(args), self._span(tree))

    def _block(self, tree: Tree[Token]) -> ast.Block:
        return ast.Block(self._statements(tree.children), self._span(tree))

    def _argument(self, node: Node) -> ast.Argument:
        assert isinstance(node, Tree), node
        if node.data == "named":
            key, value = node.children
            return ast.Argument(self._key(key), self._node(value), self._span(node))
        return ast.Argument(None, self._node(node), self._span(node))

    def _arguments(self, nodes: Iterable[Node]) -> tuple[ast.Argument, ...]:
        return tuple(self._argument(node) for node in nodes)

    # ---- statements

    def _statements(self, nodes: Iterable[Node]) -> tuple[ast.Statement, ...]:
        """Statements, with each `or`, `else` and bare block joined to what it continues."""
        done: list[ast.Statement] = []
        for node in nodes:
            assert isinstance(node, Tree), node
            if node.data not in ("or", "else", "bare"):
                done.append(self._node(node))
                continue
            child = self._node(node.children[-1])
            block = child if isinstance(child, ast.Block) else ast.Block((child,), child.span)
            before = done[-1] if done else None
            if node.data == "or" and isinstance(before, ast.Choose):
                done[-1] = ast.Choose((*before.blocks, block), before.span.to(block.span))
            elif node.data == "bare" and isinstance(before, ast.Parallel):
                done[-1] = ast.Parallel((*before.blocks, block), before.span.to(block.span))
            elif node.data == "else" and isinstance(before, ast.If) and (joined := _else(before, block)):
                done[-1] = joined
            else:
                self._stray(node)
        return tuple(done)

    def _stray(self, node: Tree[Token]) -> None:
        owner = {"or": "`choose { }`", "else": "`if CONDITION { }`", "bare": "`parallel { }`"}[node.data]
        what = "this block" if node.data == "bare" else f"`{node.data}`"
        start = self._span(node).start
        word = 1 if node.data == "bare" else len(node.data)
        self.sink.add(Diagnostic(
            "DM011", f"{what} follows no {owner}", Span(self.source, start, start + word),
            expected=f"{owner} right before it",
        ))

    def _call(self, tree: Tree[Token]) -> ast.Call:
        head, *args = tree.children
        word = self._name(head) if isinstance(head, Token) else self._joined(head)
        return ast.Call(word, self._arguments(args), self._span(tree))

    def _segment(self, tree: Tree[Token]) -> ast.Segment:
        size, call = tree.children
        return ast.Segment(self._number(size), self._node(call), self._span(tree))

    def _raw(self, tree: Tree[Token]) -> ast.Raw:
        return ast.Raw(self._unquoted(tree.children[0]), self._span(tree))

    def _condition(self, tree: Tree[Token]) -> ast.Condition:
        children = list(tree.children)
        negate = isinstance(children[0], Token) and children[0].type == "NOT"
        name, *rest = children[1:] if negate else children
        if isinstance(name, Tree):
            function = self._function(name)
            args = tuple(ast.Argument(None, arg, arg.span) for arg in function.args)
            args += self._arguments(rest)
            return ast.Condition(negate, function.name, args, self._span(tree))
        return ast.Condition(negate, self._name(name), self._arguments(rest), self._span(tree))

    def _await(self, tree: Tree[Token]) -> ast.Await:
        return ast.Await(self._node(tree.children[0]), self._span(tree))

    def _expect(self, tree: Tree[Token]) -> ast.Expect:
        return ast.Expect(self._node(tree.children[0]), self._span(tree))

    def _with(self, tree: Tree[Token]) -> ast.With:
        lock, block = self._nodes(tree.children)
        return ast.With(lock, block, self._span(tree))

    def _parallel(self, tree: Tree[Token]) -> ast.Parallel:
        return ast.Parallel(self._nodes(tree.children), self._span(tree))

    def _choose(self, tree: Tree[Token]) -> ast.Choose:
        return ast.Choose(self._nodes(tree.children), self._span(tree))

    def _repeat(self, tree: Tree[Token]) -> ast.Repeat:
        times, block = tree.children
        assert isinstance(times, Token)
        count = self._name(times) if times.type == "NAME" else self._number(times)
        return ast.Repeat(count, self._node(block), self._span(tree))

    def _if(self, tree: Tree[Token]) -> ast.If:
        condition, then = self._nodes(tree.children)
        return ast.If(condition, then, None, self._span(tree))

    def _catch(self, tree: Tree[Token], must: bool) -> ast.Catch:
        *errno, block = tree.children
        name = self._name(errno[0]) if errno else None
        return ast.Catch(must, name, self._node(block), self._span(tree))

    def _expect_error(self, tree: Tree[Token]) -> ast.Catch:
        return self._catch(tree, True)

    def _allow_error(self, tree: Tree[Token]) -> ast.Catch:
        return self._catch(tree, False)

    # ---- declarations

    def _use(self, tree: Tree[Token]) -> ast.Use:
        return ast.Use(self._name(tree.children[0]), self._span(tree))

    def _kernel(self, tree: Tree[Token]) -> ast.Kernel:
        return ast.Kernel(self._eras(tree), self._span(tree))

    def _eras(self, tree: Tree[Token]) -> tuple[ast.Word | ast.Quantity, ...]:
        return tuple(self._name(token) if isinstance(token, Token) and token.type == "NAME" else self._number(token)
                     for token in tree.children)

    def _disk(self, tree: Tree[Token]) -> ast.Disk:
        name, *args = tree.children
        return ast.Disk(self._name(name), self._arguments(args), self._span(tree))

    def _device(self, tree: Tree[Token]) -> ast.Device:
        name, *args, table = tree.children
        return ast.Device(self._name(name), self._arguments(args), self._node(table), self._span(tree))

    def _filesystem(self, tree: Tree[Token]) -> ast.Filesystem:
        name, device = (self._name(child) for child in tree.children)
        return ast.Filesystem(name, device, self._span(tree))

    def _lock(self, tree: Tree[Token]) -> ast.Lock:
        return ast.Lock(self._name(tree.children[0]), self._span(tree))

    def _process(self, tree: Tree[Token]) -> ast.Process:
        name, block = tree.children
        return ast.Process(self._name(name), self._node(block), self._span(tree))

    def _procedure(self, tree: Tree[Token]) -> ast.Procedure:
        name, *lists, block = tree.children
        parameters = tuple(self._parameter(node) for one in lists for node in cast(Tree[Token], one).children)
        return ast.Procedure(self._name(name), parameters, self._node(block), self._span(tree))

    def _parameter(self, node: Node) -> ast.Parameter:
        assert isinstance(node, Tree), node
        if node.data == "required":
            return ast.Parameter(self._name(node.children[0]), None)
        key, value = node.children
        return ast.Parameter(self._key(key), self._node(value))

    def _run(self, tree: Tree[Token]) -> ast.Run:
        return ast.Run(tuple(self._name(child) for child in tree.children), self._span(tree))

    def _schedule(self, tree: Tree[Token]) -> ast.Schedule:
        return ast.Schedule(tuple(self._number(child) for child in tree.children), self._span(tree))

    def _fault(self, tree: Tree[Token]) -> ast.Fault:
        return ast.Fault(self._node(tree.children[0]), self._span(tree))

    def _check(self, tree: Tree[Token]) -> ast.Check:
        mode, call = tree.children
        return ast.Check(self._name(mode), self._node(call), self._span(tree))

    def _violation(self, tree: Tree[Token]) -> ast.Violation:
        check, *eras = tree.children
        named = () if not eras or eras[0] is None else self._node(eras[0])
        return ast.Violation(self._name(check), named, self._span(tree))

    def _on(self, tree: Tree[Token]) -> ast.On:
        return ast.On(tuple(self._name(child) for child in tree.children), self._span(tree))

    def _operations(self, tree: Tree[Token]) -> ast.Operations:
        least, most, block = tree.children
        return ast.Operations(self._number(least), self._number(most), self._node(block), self._span(tree))

    def _titled(self, tree: Tree[Token]) -> tuple[ast.Word, str, tuple[Any, ...]]:
        name, *rest = tree.children
        title = ""
        if rest and isinstance(rest[0], Token):
            title = self._unquoted(rest[0]).value
            rest = rest[1:]
        return self._name(name), title, self._nodes(rest)

    def _scenario(self, tree: Tree[Token]) -> ast.Scenario:
        name, title, lines = self._titled(tree)
        return ast.Scenario(name, title, lines, self._span(tree))

    def _property(self, tree: Tree[Token]) -> ast.Property:
        name, title, lines = self._titled(tree)
        return ast.Property(name, title, lines, self._span(tree))
