"""A small part of Python, for expressions over JSON values: parsed once, turned into closures, run under a budget.

Nothing is handed to Python's own evaluation. There are only JSON values, the functions and methods in the two tables below, and a budget
of steps and of size. An attribute is a member of a JSON object, never one of Python's.
"""

from __future__ import annotations

import ast
import inspect
import operator
import reprlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

from cascade.verifiers._text import one_line

MAX_STEPS = 100_000
"""Steps of one evaluation: a node evaluated, an item visited, 256 characters touched."""

MAX_BITS = 4_096
"""Bits of an integer."""

MAX_SOURCE = 4_000
"""Characters of an expression, and its nodes may be MAX_NESTING deep."""

MAX_NESTING = 40


class Wrong(Exception):
    """The answer does not have what the expression asks for: a field is missing, or a value is of another type."""


class CannotTell(Exception):
    """The expression could not be evaluated, and the answer is not to blame."""


class Run:
    """One evaluation: the names it sees, and the steps it has left."""

    __slots__ = ("left", "names")

    def __init__(self, names: dict[str, Any]) -> None:
        self.names = names
        self.left = MAX_STEPS

    def spend(self, steps: int) -> None:
        self.left -= steps
        if self.left < 0:
            raise CannotTell(f"takes more than {MAX_STEPS} steps")

    def touch(self, value: Any) -> None:
        """Pay for going through all of a value."""
        stack = [value]
        while stack:
            item = stack.pop()
            if isinstance(item, str):
                self.spend(1 + (len(item) >> 8))
            elif isinstance(item, dict):
                self.spend(1 + len(item))
                stack.extend(item.values())
            elif isinstance(item, list | tuple | set | frozenset):
                self.spend(1 + len(item))
                stack.extend(item)
            else:
                self.spend(1)


Node = Callable[[Run], Any]


# ---------------------------------------------------------------- what can be called


def _numbers(run: Run, items: Any) -> list[Any]:
    values = list(_iterate(run, items))
    for value in values:
        if not is_number(value):
            raise Wrong(f"a sum of numbers is asked of {kind_of(value)}")
    return values


def _f_sum(run: Run, items: Any) -> Any:
    total: Any = 0
    for value in _numbers(run, items):
        total = _fit(total + value)
    return total


def _f_len(run: Run, value: Any) -> int:
    if not isinstance(value, str | list | dict | set | frozenset | tuple):
        raise Wrong(f"{kind_of(value)} has no length")
    return len(value)


def _f_round(run: Run, value: Any, digits: Any = None) -> Any:
    if not is_number(value) or not (digits is None or (_is_integer(digits) and abs(digits) <= 30)):
        raise Wrong(f"round takes a number and at most 30 digits, not {kind_of(value)}")
    return round(value, digits) if digits is not None else round(value)


def _extreme(pick: Callable[..., Any]) -> Callable[..., Any]:
    def extreme(run: Run, *values: Any) -> Any:
        items = list(_iterate(run, values[0])) if len(values) == 1 else list(values)
        if not items:
            raise Wrong(f"{pick.__name__} of nothing")
        for item in items:
            run.touch(item)
        return pick(items)

    return extreme


def _f_sorted(run: Run, items: Any) -> list[Any]:
    values = list(_iterate(run, items))
    for value in values:
        run.touch(value)
    run.spend(len(values) * len(values).bit_length())
    return sorted(values)


def _f_set(run: Run, items: Any = ()) -> frozenset[Any]:
    values = list(_iterate(run, items))
    for value in values:
        run.touch(value)
        # whoever writes the answer could choose large integers whose hashes collide
        if _is_integer(value) and value.bit_length() > 60:
            raise Wrong("a number is too large for a set")
    return frozenset(values)


def _f_str(run: Run, value: Any = "") -> str:
    run.touch(value)
    text = str(value)
    run.touch(text)
    return text


def _f_int(run: Run, value: Any) -> Any:
    if isinstance(value, str):
        run.touch(value)
        if len(value) > 1_000:
            raise Wrong("a text of over 1000 characters is no integer")
    return _fit(int(value))


def _f_float(run: Run, value: Any) -> float:
    if isinstance(value, str) and len(value) > 1_000:
        raise Wrong("a text of over 1000 characters is no number")
    return float(value)


FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "abs": lambda run, value: abs(_number(value)),
    "all": lambda run, items: all(_truth(item) for item in _iterate(run, items)),
    "any": lambda run, items: any(_truth(item) for item in _iterate(run, items)),
    "bool": lambda run, value: bool(value),
    "float": _f_float,
    "int": _f_int,
    "len": _f_len,
    "max": _extreme(max),
    "min": _extreme(min),
    "round": _f_round,
    "set": _f_set,
    "sorted": _f_sorted,
    "str": _f_str,
    "sum": _f_sum,
}
"""The functions an expression may call."""

METHODS: Mapping[type, Mapping[str, tuple[int, int]]] = {
    str: {
        "casefold": (0, 0), "endswith": (1, 1), "isalpha": (0, 0), "isdigit": (0, 0), "lower": (0, 0), "lstrip": (0, 1),
        "rstrip": (0, 1), "split": (0, 1), "startswith": (1, 1), "strip": (0, 1), "upper": (0, 0),
    },
    dict: {"get": (1, 2), "items": (0, 0), "keys": (0, 0), "values": (0, 0)},
}  # fmt: skip
"""The methods of texts and objects, with the least and the most arguments; a field of the answer is never a function."""

_ARGUMENTS = {name: arity for methods in METHODS.values() for name, arity in methods.items()}


def _method(run: Run, value: Any, name: str, arguments: list[Any]) -> Any:
    kind = str if isinstance(value, str) else dict
    if not isinstance(value, kind) or name not in METHODS[kind]:
        raise Wrong(f"{kind_of(value)} has no {name}()")
    run.touch(value) if kind is str else run.spend(1 + len(value))
    for argument in arguments:
        run.touch(argument)
    if kind is str and not all(isinstance(argument, str) for argument in arguments):
        raise Wrong(f"{name}() takes text")
    result = getattr(value, name)(*arguments)
    result = list(map(list, result)) if name == "items" else list(result) if name in ("keys", "values") else result
    run.touch(result) if isinstance(result, str | list) else None
    return result


# ---------------------------------------------------------------- values


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: Any) -> Any:
    if not is_number(value):
        raise Wrong(f"a number is wanted, not {kind_of(value)}")
    return value


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise Wrong(f"true or false is wanted, not {kind_of(value)}")
    return value


def _fit(value: Any) -> Any:
    if isinstance(value, int) and value.bit_length() > MAX_BITS:
        raise CannotTell(f"an integer grows over {MAX_BITS} bits")
    return value


def kind_of(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return f"{value}".lower()
    if is_number(value):
        return f"the number {show(value)}"
    if isinstance(value, str):
        return f"the text {show(value)}"
    return "an object" if isinstance(value, dict) else "an array" if isinstance(value, list) else "a set"


_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 2, 60, 60


def show(value: Any) -> str:
    """A value for a reason: short whatever it is, floats without their noise."""
    if isinstance(value, float):
        return f"{value:.12g}"
    if isinstance(value, int) and value.bit_length() > 400:
        return "a huge integer"
    return one_line(_SHORT.repr(value), 120)


def _iterate(run: Run, value: Any) -> Iterator[Any]:
    if not isinstance(value, list | tuple | frozenset | dict | str):
        raise Wrong(f"{kind_of(value)} has no items")
    for item in value:
        run.spend(1)
        yield item


# ---------------------------------------------------------------- operators


def _add(run: Run, a: Any, b: Any) -> Any:
    if isinstance(a, str) and isinstance(b, str):
        run.spend(1 + ((len(a) + len(b)) >> 8))
        return a + b
    if isinstance(a, list) and isinstance(b, list):
        run.spend(1 + len(a) + len(b))
        return a + b
    return _fit(_number(a) + _number(b))


def _multiply(run: Run, a: Any, b: Any) -> Any:
    return _fit(_number(a) * _number(b))


def _power(run: Run, a: Any, b: Any) -> Any:
    a, b = _number(a), _number(b)
    if isinstance(a, int) and isinstance(b, int) and (abs(b) > MAX_BITS or a.bit_length() * abs(b) > MAX_BITS):
        raise CannotTell(f"an integer grows over {MAX_BITS} bits")
    if a < 0 and isinstance(b, float):
        raise Wrong("a root of a negative number")
    return a**b


def _arithmetic(apply: Callable[[Any, Any], Any]) -> Callable[[Run, Any, Any], Any]:
    return lambda run, a, b: _fit(apply(_number(a), _number(b)))


_BINARY: Mapping[type[ast.operator], Callable[[Run, Any, Any], Any]] = {
    ast.Add: _add,
    ast.Sub: _arithmetic(operator.sub),
    ast.Mult: _multiply,
    ast.Div: _arithmetic(operator.truediv),
    ast.FloorDiv: _arithmetic(operator.floordiv),
    ast.Mod: _arithmetic(operator.mod),
    ast.Pow: _power,
}


def _equal(run: Run, a: Any, b: Any) -> bool:
    if isinstance(a, bool) != isinstance(b, bool):
        return False  # true is not 1
    if isinstance(a, str | list | dict | frozenset) and isinstance(b, type(a)) and len(a) == len(b):
        run.touch(a)
    return bool(a == b)


def _ordered(apply: Callable[[Any, Any], bool]) -> Callable[[Run, Any, Any], bool]:
    def compare(run: Run, a: Any, b: Any) -> bool:
        if not ((is_number(a) and is_number(b)) or (isinstance(a, str) and isinstance(b, str))):
            if not (isinstance(a, frozenset) and isinstance(b, frozenset)) and not (isinstance(a, list) and isinstance(b, list)):
                raise Wrong(f"{kind_of(a)} and {kind_of(b)} have no order")
            run.touch(a)
        elif isinstance(a, str):
            run.touch(a)
        return apply(a, b)

    return compare


def _contains(run: Run, a: Any, b: Any) -> bool:
    if isinstance(b, str):
        if not isinstance(a, str):
            raise Wrong(f"{kind_of(a)} cannot be in a text")
        run.touch(a)
        run.touch(b)
        return a in b
    if isinstance(b, dict | frozenset):
        run.touch(a)
        return a in b
    return any(_equal(run, a, item) for item in _iterate(run, b))


_COMPARE: Mapping[type[ast.cmpop], Callable[[Run, Any, Any], bool]] = {
    ast.Eq: _equal,
    ast.NotEq: lambda run, a, b: not _equal(run, a, b),
    ast.Lt: _ordered(operator.lt),
    ast.LtE: _ordered(operator.le),
    ast.Gt: _ordered(operator.gt),
    ast.GtE: _ordered(operator.ge),
    ast.In: _contains,
    ast.NotIn: lambda run, a, b: not _contains(run, a, b),
    ast.Is: lambda run, a, b: _identical(a, b),
    ast.IsNot: lambda run, a, b: not _identical(a, b),
}


def _identical(a: Any, b: Any) -> bool:
    """`is None`, `is True`, `is False`; the compiler lets nothing else through."""
    return a is b


# ---------------------------------------------------------------- from syntax to closures


class Compiler:
    """Turns an expression's syntax into closures. What it does not know is refused, with its column."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.bound: list[str] = []
        self.fields: dict[str, int] = {}
        self.depth = 0

    def refuse(self, node: ast.AST, what: str) -> NoReturn:
        raise ValueError(f"column {getattr(node, 'col_offset', 0) + 1}: {what}")

    def compile(self, node: ast.AST) -> Node:
        self.depth += 1
        if self.depth > MAX_NESTING:
            self.refuse(node, f"nested more than {MAX_NESTING} deep")
        build = getattr(self, f"on_{type(node).__name__}", None)
        if build is None:
            self.refuse(node, f"{_WORDS.get(type(node), type(node).__name__)} cannot be used in a check")
        inner: Node = build(node)
        self.depth -= 1

        def step(run: Run) -> Any:
            run.left -= 1
            if run.left < 0:
                run.spend(0)
            return inner(run)

        return step

    def on_Constant(self, node: ast.Constant) -> Node:
        value = node.value
        if not (value is None or isinstance(value, bool | int | float | str)):
            self.refuse(node, f"{type(value).__name__} cannot be used in a check")
        if isinstance(value, int) and value.bit_length() > MAX_BITS:
            self.refuse(node, "the number is too large")
        return lambda run: value

    def on_Name(self, node: ast.Name) -> Node:
        name = node.id
        if name.startswith("__"):
            self.refuse(node, f"{name} cannot be used in a check")
        literal = {"true": True, "false": False, "null": None}
        if name in literal and name not in self.bound:
            return lambda run: literal[name]
        if name not in self.bound and name not in ("answer", "inputs"):
            self.fields.setdefault(name, node.col_offset)

        def look_up(run: Run) -> Any:
            try:
                return run.names[name]
            except KeyError:
                raise Wrong(f"answer has no field `{name}`") from None

        return look_up

    def on_Attribute(self, node: ast.Attribute) -> Node:
        if node.attr.startswith("__"):
            self.refuse(node, f"{node.attr} cannot be used in a check")
        return self.member(self.compile(node.value), node.attr, self.is_input(node.value), ast.unparse(node.value))

    def is_input(self, node: ast.AST) -> bool:
        while isinstance(node, ast.Attribute | ast.Subscript):
            node = node.value
        return isinstance(node, ast.Name) and node.id == "inputs" and "inputs" not in self.bound

    def member(self, value: Node, name: str, is_input: bool, owner: str) -> Node:
        def get(run: Run) -> Any:
            holder = value(run)
            if isinstance(holder, dict) and name in holder:
                return holder[name]
            if is_input:
                raise CannotTell(f"{owner} has no `{name}`")
            raise Wrong(f"{owner} has no field `{name}`" if isinstance(holder, dict) else f"{owner} is {kind_of(holder)}, without `{name}`")

        return get

    def on_Subscript(self, node: ast.Subscript) -> Node:
        if isinstance(node.slice, ast.Slice):
            return self.slice(node, node.slice)
        value, key = self.compile(node.value), self.compile(node.slice)
        owner, is_input = ast.unparse(node.value), self.is_input(node.value)

        def get(run: Run) -> Any:
            holder, at = value(run), key(run)
            if isinstance(holder, dict) and isinstance(at, str) and at in holder:
                return holder[at]
            if isinstance(holder, list | str) and _is_integer(at) and -len(holder) <= at < len(holder):
                return holder[at]
            raise (CannotTell if is_input else Wrong)(f"{owner} has no item {show(at)}")

        return get

    def slice(self, node: ast.Subscript, part: ast.Slice) -> Node:
        if part.step is not None:
            self.refuse(node, "a slice with a step cannot be used in a check")
        value = self.compile(node.value)
        ends = [self.compile(end) if end is not None else (lambda run: None) for end in (part.lower, part.upper)]

        def cut(run: Run) -> Any:
            holder, low, high = value(run), ends[0](run), ends[1](run)
            if not isinstance(holder, str | list) or not all(end is None or _is_integer(end) for end in (low, high)):
                raise Wrong(f"{kind_of(holder)} cannot be sliced")
            found = holder[low:high]
            run.spend(len(found) >> 8 if isinstance(found, str) else len(found))
            return found

        return cut

    def on_BinOp(self, node: ast.BinOp) -> Node:
        apply = _BINARY.get(type(node.op))
        if apply is None:
            self.refuse(node, f"the operator {type(node.op).__name__} cannot be used in a check")
        left, right = self.compile(node.left), self.compile(node.right)
        return lambda run: apply(run, left(run), right(run))

    def on_UnaryOp(self, node: ast.UnaryOp) -> Node:
        value = self.compile(node.operand)
        if isinstance(node.op, ast.Not):
            return lambda run: not value(run)
        if isinstance(node.op, ast.Invert):
            self.refuse(node, "the operator ~ cannot be used in a check")
        sign = 1 if isinstance(node.op, ast.UAdd) else -1
        return lambda run: sign * _number(value(run))

    def on_BoolOp(self, node: ast.BoolOp) -> Node:
        values = [self.compile(value) for value in node.values]
        stop = isinstance(node.op, ast.Or)

        def combine(run: Run) -> Any:
            result: Any = None
            for value in values:
                result = value(run)
                if bool(result) is stop:
                    return result
            return result

        return combine

    def on_Compare(self, node: ast.Compare) -> Node:
        for op, pair in zip(node.ops, zip([node.left, *node.comparators], node.comparators, strict=False), strict=True):
            if isinstance(op, ast.Is | ast.IsNot) and not any(isinstance(x, ast.Constant) and x.value in (None, True, False) for x in pair):
                self.refuse(node, "`is` compares with None, True or False only")
        first = self.compile(node.left)
        rest = [(_COMPARE[type(op)], self.compile(right)) for op, right in zip(node.ops, node.comparators, strict=True)]

        def compare(run: Run) -> bool:
            left = first(run)
            for apply, right in rest:
                value = right(run)
                if not apply(run, left, value):
                    return False
                left = value
            return True

        return compare

    def on_IfExp(self, node: ast.IfExp) -> Node:
        test, then, other = self.compile(node.test), self.compile(node.body), self.compile(node.orelse)
        return lambda run: then(run) if test(run) else other(run)

    def on_List(self, node: ast.List | ast.Tuple | ast.Set) -> Node:
        items = [self.compile(item) for item in node.elts]
        return lambda run: [item(run) for item in items]

    on_Tuple = on_List

    def on_Set(self, node: ast.Set) -> Node:
        items = self.on_List(node)
        return lambda run: _f_set(run, items(run))

    def on_Call(self, node: ast.Call) -> Node:
        for argument in node.args:
            if isinstance(argument, ast.Starred):
                self.refuse(argument, "* cannot be used in a check")
        if node.keywords:
            self.refuse(node, "arguments by name cannot be used in a check")
        if isinstance(node.func, ast.Attribute):
            return self.method(node, node.func)
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        function = FUNCTIONS.get(name)
        if function is None:
            self.refuse(node, f"only {', '.join(FUNCTIONS)} can be called{f', not {name}' if name else ''}")
        try:
            inspect.signature(function).bind(None, *node.args)
        except TypeError as err:
            self.refuse(node, f"{name}(): {err}")
        arguments = [self.compile(argument) for argument in node.args]
        return lambda run: function(run, *[argument(run) for argument in arguments])

    def method(self, node: ast.Call, function: ast.Attribute) -> Node:
        name = function.attr
        if name not in _ARGUMENTS:
            self.refuse(node, f"there is no method {name}; there are {', '.join(sorted(_ARGUMENTS))}")
        least, most = _ARGUMENTS[name]
        if not least <= len(node.args) <= most:
            self.refuse(node, f"{name}() takes {least if least == most else f'{least} to {most}'} arguments")
        value, arguments = self.compile(function.value), [self.compile(argument) for argument in node.args]
        return lambda run: _method(run, value(run), name, [argument(run) for argument in arguments])

    def on_GeneratorExp(self, node: ast.GeneratorExp | ast.ListComp | ast.SetComp) -> Node:
        """A list of the elements, each a step of the budget; names bound inside are seen inside only."""
        before, loops = len(self.bound), []
        for comprehension in node.generators:
            if comprehension.is_async or not isinstance(comprehension.target, ast.Name | ast.Tuple):
                self.refuse(node, "only `for NAME in …` can be used in a check")
            source = self.compile(comprehension.iter)
            names = self.targets(comprehension.target)
            self.bound += names
            loops.append((source, names, isinstance(comprehension.target, ast.Tuple), [self.compile(test) for test in comprehension.ifs]))
        element = self.compile(node.elt)
        del self.bound[before:]

        def collect(run: Run) -> list[Any]:
            outer, found = run.names, []

            def loop(at: int) -> None:
                if at == len(loops):
                    found.append(element(run))
                    return
                source, names, unpack, tests = loops[at]
                for item in _iterate(run, source(run)):
                    if unpack:
                        if not isinstance(item, list) or len(item) != len(names):
                            raise Wrong(f"{kind_of(item)} is not {len(names)} items")
                        run.names.update(zip(names, item, strict=True))
                    else:
                        run.names[names[0]] = item
                    if all(test(run) for test in tests):
                        loop(at + 1)

            run.spend(len(outer))
            run.names = dict(outer)
            try:
                loop(0)
            finally:
                run.names = outer
            return found

        return collect

    on_ListComp = on_GeneratorExp

    def on_SetComp(self, node: ast.SetComp) -> Node:
        items = self.on_GeneratorExp(node)
        return lambda run: _f_set(run, items(run))

    def targets(self, target: ast.Name | ast.Tuple) -> list[str]:
        parts = [target] if isinstance(target, ast.Name) else target.elts
        names = [part.id for part in parts if isinstance(part, ast.Name)]
        if len(names) != len(parts) or any(name.startswith("__") for name in names):
            self.refuse(target, "only `for NAME in …` can be used in a check")
        return names


_WORDS: Mapping[type[ast.AST], str] = {
    ast.Lambda: "lambda", ast.NamedExpr: ":=", ast.JoinedStr: "an f-string", ast.Await: "await", ast.Yield: "yield",
    ast.YieldFrom: "yield", ast.Starred: "*", ast.Dict: "{…: …}", ast.DictComp: "{…: … for …}",
}  # fmt: skip


def parse(source: str) -> ast.expr:
    """The expression's syntax. ValueError with the column when there is none."""
    if len(source) > MAX_SOURCE:
        raise ValueError(f"the expression has {len(source)} characters, at most {MAX_SOURCE} are read")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            return ast.parse(source, mode="eval").body
    except SyntaxError as err:
        raise ValueError(f"column {err.offset or 1}: {err.msg}") from None
    except (MemoryError, RecursionError, ValueError) as err:  # what the parser says of hostile text
        raise ValueError(f"cannot be read: {one_line(str(err), 80) or 'nested too deeply'}") from None
