"""Chat templates within bounds: a template is a program of somebody else, and must end, and not fill the memory.

transformers renders templates in Jinja's sandbox, which limits what a template reaches, and not what it takes. Here
each template is compiled for a sandbox that counts: every turn of a loop, every call, and the size of all that is made.
What a value would take is found before it is made, so that `'x' * 10**10` takes nothing.
"""

from __future__ import annotations

import functools
import math
import re
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from jinja2 import Template, nodes, pass_context
from jinja2.environment import Environment
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from halo_lightning.errors import ConfigError

LARGEST_TEMPLATE = 2**20
"""Characters of a chat template at most; real ones have some thousand."""
LARGEST_VALUE, VALUE_PER_CHARACTER = 2**22, 16
"""Characters of one value, or of all that is written, at most: so many, and so many more for each one of the input."""
MOST_WORK, WORK_PER_CHARACTER = 2**28, 2**8
"""Work of one rendering at most, in characters that are made or read."""
STEP, CALL = 64, 512
"""What a turn of a loop, and a call, count as."""
MOST_BITS = 2**14
"""Of a whole number."""

_UNCOUNTED = (
    *(
        "abs",
        "attr",
        "count",
        "d",
        "default",
        "dictsort",
        "first",
        "float",
        "groupby",
        "int",
        "items",
        "last",
        "length",
    ),
    *("list", "map", "reject", "rejectattr", "reverse", "round", "safe", "select", "selectattr", "sort", "unique"),
)
"""Filters that write nothing out: what they take does not grow with the size of what is in a list."""
_LENGTHENING = ("center", "expandtabs", "join", "ljust", "replace", "rjust", "translate", "zfill")
"""Methods of a text that can make it longer by a factor; others go through it once."""
_JINJAS_OWN = ("_loop_vars", "_block_vars")
"""What Jinja gives with every call, for functions that take the context."""
_NOT_OFFERED = ("pprint", "striptags", "sum", "urlize", "wordwrap")
"""Filters whose work is not known before, and that chat templates do not use."""


class TemplateLimitError(ConfigError):
    """A chat template takes more time or memory than any template needs."""


def bound_templates(trusted: Iterable[str] = ()) -> None:
    """Lets transformers compile chat templates for the sandbox that counts, from now on and in the whole process.

    Args:
        trusted: Templates that are known to end, and are rendered without counting, which is faster.
    """
    from transformers.utils import chat_template_utils

    _trusted.update(trusted)
    if chat_template_utils._compile_jinja_template is not _compiled:
        _original.append(chat_template_utils._compile_jinja_template)
        chat_template_utils._compile_jinja_template = _compiled


_original: list[Callable[[str], Template]] = []
_trusted: set[str] = set()


@functools.lru_cache
def _compiled(chat_template: str) -> Template:
    """A chat template, as transformers compiles it, with everything counted."""
    if chat_template in _trusted:
        return _original[0](chat_template)
    if len(chat_template) > LARGEST_TEMPLATE:
        raise TemplateLimitError(f"the chat template has {len(chat_template):,} characters, which no template has")
    environment = CountingEnvironment.like(_original[0]("").environment)
    with _Budget(len(chat_template)):
        tree = _Counted().visit(environment.parse(chat_template))
        return environment.from_string(tree.set_environment(environment))


# --- counting --------------------------------------------------------------------------------------------------------


class _Budget:
    """What is left for a rendering in this thread, while the context lasts.

    Args:
        characters: Of the input.
    """

    current = threading.local()

    def __init__(self, characters: int) -> None:
        self.largest = LARGEST_VALUE + VALUE_PER_CHARACTER * characters
        self.work: float = MOST_WORK + WORK_PER_CHARACTER * characters
        self.written: float = 0

    def __enter__(self) -> _Budget:
        self.before = getattr(self.current, "budget", None)
        self.current.budget = self
        return self

    def __exit__(self, *error: object) -> None:
        self.current.budget = self.before

    def spend(self, work: float) -> None:
        self.work -= work
        if self.work < 0:
            raise TemplateLimitError(
                "the chat template loops or calls too much: it takes longer than any template needs"
            )

    def make(self, characters: float) -> None:
        """Before something is made, or where it has just been made of things that are no larger."""
        if characters > self.largest:
            raise TemplateLimitError(
                f"the chat template makes a text or a list of more than {self.largest:,} characters, which is more than"
                " any template needs"
            )
        self.spend(characters)

    def write(self, characters: float) -> None:
        self.written += characters
        self.make(self.written if self.written > self.largest else characters)


def _budget() -> _Budget:
    budget: _Budget = _Budget.current.budget
    return budget


def size(value: Any, most: float = math.inf) -> int:
    """How many characters a value has where it is written out, about, with all that is in it; counted to `most`."""
    total, waiting = 0, [value]
    while waiting and total <= most:
        value = waiting.pop()
        if isinstance(value, str | bytes):
            total += len(value)
        elif isinstance(value, Mapping):
            total += len(value)
            waiting += [*value.keys(), *value.values()]
        elif isinstance(value, list | tuple | set | frozenset):
            total += len(value)
            waiting += value
        elif isinstance(value, Namespace):
            total += 1
            waiting.append(object.__getattribute__(value, "_Namespace__attrs"))
        else:
            total += 1
    return total


def _measured(value: Any) -> int:
    if type(value) is str:  # most are
        return len(value)
    return size(value, _budget().largest)


def _made(value: Any) -> Any:
    """Counts a value that has just been made."""
    _budget().make(_measured(value))
    return value


def _factor(value: Any) -> int:
    """By how much an argument may make a text longer: its size, or the number that it is."""
    return max(1, abs(value) if isinstance(value, int) else _measured(value))


def _product(*values: Any) -> float:
    return float(math.prod(min(_factor(value), 2**62) for value in values))


def _formatted(text: str, values: Iterable[Any]) -> float:
    """What a text with places for values can become at most: widths are numbers in it, or values."""
    widths = sum(min(float(digits), 2.0**62) for digits in re.findall(r"\d+", text))
    return len(text) + widths + sum(text.count(mark) for mark in "%{*") * _product(*values)


# --- the sandbox -----------------------------------------------------------------------------------------------------


class _CountingTemplate(Template):
    """A template whose renderings are counted."""

    def render(self, *args: Any, **values: Any) -> str:
        """Renders, within the bounds.

        Raises:
            TemplateLimitError: They do not suffice.
        """
        with _Budget(size(values)):
            return super().render(*args, **values)


class CountingEnvironment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, in which the size of everything is counted."""

    intercepted_binops = frozenset({"+", "*", "%", "**"})
    template_class = _CountingTemplate

    @classmethod
    def like(cls, other: Environment) -> CountingEnvironment:
        """A sandbox with the filters, tests, functions and extensions of another one."""
        own = cls(
            trim_blocks=other.trim_blocks,
            lstrip_blocks=other.lstrip_blocks,
            extensions=[type(extension) for extension in other.extensions.values()],
            optimized=False,
        )
        own.globals.update(other.globals)
        del own.globals["lipsum"]  # makes texts of any length
        own.filters = {
            name: _counted_filter(name, made) for name, made in other.filters.items() if name not in _NOT_OFFERED
        }
        own.filters |= {"_written": _written, "_concatenated": _concatenated, "_made": _made_filter, "_read": _read}
        own.filters["_step"] = _step
        own.tests = {name: _counted_test(test) for name, test in other.tests.items()}
        return own

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """An operation on two values, whose result is not too large."""
        _budget().make(_operation(operator, left, right))
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        """A call of a macro, a method of a text, or a function."""
        method = getattr(__obj, "__wrapped__", __obj)
        owner = getattr(method, "__self__", None)
        work = float(CALL)
        if isinstance(owner, str):
            values = (*args, *(value for name, value in kwargs.items() if name not in _JINJAS_OWN))
            if method.__name__ in ("format", "format_map"):
                work += _formatted(owner, values)
            elif method.__name__ in _LENGTHENING:
                work += _product(owner, *values)
            else:
                work += sum(map(_measured, (owner, *values)))
        _budget().spend(work)
        return _made(super().call(__context, __obj, *args, **kwargs))


def _operation(operator: str, left: Any, right: Any) -> float:
    """The size of what an operation makes; infinite where nobody needs it."""
    if operator == "+" and type(left) is str and type(right) is str:
        return len(left) + len(right)
    if isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() * abs(right) if operator == "**" else left.bit_length() + right.bit_length()
        return math.inf if bits > MOST_BITS else 1
    if operator == "*":
        return _product(left, right)
    if operator == "%" and isinstance(left, str):
        return _formatted(left, right if isinstance(right, tuple) else [right])
    return _measured(left) + _measured(right)


def _counted_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)  # with what says that it takes the context first
    def counted(*args: Any, **kwargs: Any) -> Any:
        own = args[1:] if hasattr(function, "jinja_pass_arg") else args
        values = [*own, *kwargs.values()]
        work = float(STEP)
        if name == "format":
            work += (
                _formatted(str(values[0])[:LARGEST_TEMPLATE], values[1:]) if isinstance(values[0], str) else math.inf
            )
        elif name not in _UNCOUNTED:
            work += _product(*values)
        _budget().spend(work)
        result = function(*args, **kwargs)
        return result if name in _UNCOUNTED else _made(result)

    return counted


def _counted_test(function: Any) -> Callable[..., Any]:
    @functools.wraps(function)
    def counted(*args: Any) -> Any:
        if len(args) > 1:  # compares
            _budget().spend(STEP + sum(map(_measured, args)))
        return function(*args)

    return counted


# Filters that stand in a template for what cannot be counted otherwise. They take the context, so that nothing of them
# is computed when the template is compiled.


@pass_context
def _written(context: Any, value: Any) -> Any:
    _budget().write(_measured(value))
    return value


@pass_context
def _concatenated(context: Any, values: list[Any]) -> str:
    _budget().make(_measured(values))
    return "".join(map(str, values))


@pass_context
def _made_filter(context: Any, value: Any) -> Any:
    return _made(value)


@pass_context
def _read(context: Any, value: Any) -> Any:
    _budget().spend(_measured(value))
    return value


@pass_context
def _step(context: Any, value: bool, characters: int) -> bool:
    _budget().spend(STEP + characters)
    return value


class _Counted(NodeTransformer):
    """Puts the filters above into a template: where it writes, joins, compares, makes lists, loops, and is called."""

    def _filter(self, name: str, value: nodes.Expr, *arguments: Any) -> nodes.Filter:
        constants: list[nodes.Expr] = [nodes.Const(argument) for argument in arguments]
        made = nodes.Filter(value, name, constants, [], None, None, lineno=value.lineno or 1)
        return made

    def visit_Output(self, node: nodes.Output) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        node.nodes = [
            child if isinstance(child, nodes.TemplateData) else self._filter("_written", child) for child in node.nodes
        ]
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return self._filter("_concatenated", nodes.List(node.nodes, lineno=node.lineno))

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        node.expr = self._filter("_read", node.expr)
        for operand in node.ops:
            operand.expr = self._filter("_read", operand.expr)
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return self._filter("_made", node) if isinstance(node.arg, nodes.Slice) and node.ctx == "load" else node

    def visit_List(self, node: nodes.List) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return self._filter("_made", node)

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return self._filter("_made", node)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return self._filter("_made", node) if node.ctx == "load" else node

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802
        self._count_body(node)
        if node.test is not None:
            counted = self._filter("_step", nodes.Const(True, lineno=node.lineno), 0)
            node.test = nodes.And(counted, node.test, lineno=node.lineno)
        return node

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:  # noqa: N802
        self._count_body(node)
        return node

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.Node:  # noqa: N802
        self._count_body(node)
        return node

    def _count_body(self, node: Any) -> None:
        """Counts, each time that a body is gone through, a step and the texts that stand in it as they are."""
        texts = sum(len(data.data) for data in node.find_all(nodes.TemplateData))
        self.generic_visit(node)
        statement = nodes.ExprStmt(
            self._filter("_step", nodes.Const(True, lineno=node.lineno), texts), lineno=node.lineno
        )
        node.body.insert(0, statement)
