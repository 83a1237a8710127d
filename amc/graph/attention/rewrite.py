"""Forward of attention that reads its sizes off its input, written so that they follow a cut.

After ``b, n, c = x.shape`` attention by hand says ``qkv(x).reshape(b, n, 3, self.heads, c //
self.heads)`` and ``y.transpose(1, 2).reshape(b, n, c)``: c is the width of the input, which stays
when heads go. Where such a number is a size of a view, -1 says the same and follows; where -1
says something else already, the number is told from the heads that are left. Nothing else of the
function changes: branches, dropout and gradients are the user's.
"""

import __future__

import ast
import inspect
from dataclasses import dataclass
from types import CodeType, FunctionType

from amc.graph.attention.size_edits import SizeEdit


@dataclass(frozen=True)
class Rewritten:
    """A function whose sizes follow.

    Attributes:
        function: to be used in its place.
        numbers: attributes of self of which it reads what they were before any cut.
    """

    function: FunctionType
    numbers: frozenset[str]


def is_attention(function: FunctionType) -> bool:
    """Whether softmax or fused attention is called in it."""
    return not {"softmax", "Softmax", "scaled_dot_product_attention"}.isdisjoint(
        function.__code__.co_names
    )


def rewritten(function: FunctionType) -> Rewritten | None:
    """The same function with sizes that follow; None where nothing is to be changed.

    Nor where that is impossible: without source, or behind a decorator.
    """
    tree = _parsed(function)
    if tree is None:
        return None
    same = _compiled(tree, function)
    if same is None or _facts(same) != _facts(function.__code__):
        return None  # the source is not that of the function
    edit = SizeEdit(tree)
    edit.visit(tree)
    code = _compiled(ast.fix_missing_locations(tree), function) if edit.changed else None
    if code is None:
        return None
    cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    closure = tuple(cells[name] for name in code.co_freevars)
    made = FunctionType(
        code, function.__globals__, function.__name__, function.__defaults__, closure
    )
    made.__kwdefaults__ = function.__kwdefaults__
    made.__dict__.update(function.__dict__)
    made.__qualname__, made.__doc__ = function.__qualname__, function.__doc__
    lazily = "__annotate__" if hasattr(function, "__annotate__") else "__annotations__"
    setattr(
        made, lazily, getattr(function, lazily)
    )  # reading them may need names of type checkers
    return Rewritten(made, frozenset(edit.numbers))


def _parsed(function: FunctionType) -> ast.FunctionDef | None:
    """The source of a plain function; its lines are those of the file."""
    if hasattr(function, "__wrapped__"):
        return None
    try:
        lines, first = inspect.getsourcelines(function)
        tree = ast.parse("".join(["if 1:\n", *lines]) if lines[0][0].isspace() else "".join(lines))
    except (OSError, TypeError, SyntaxError, IndexError):
        return None
    inner = tree.body[0]
    if isinstance(inner, ast.If):
        inner, first = inner.body[0], first - 1
    if not isinstance(inner, ast.FunctionDef) or inner.decorator_list:
        return None
    ast.increment_lineno(tree, first - 1)
    return inner


def _compiled(tree: ast.FunctionDef, function: FunctionType) -> CodeType | None:
    """The code of a function; it is compiled where it sees the names that it saw, never run."""
    outside = [name for name in function.__code__.co_freevars if name != "__class__"]
    within = function.__qualname__.rpartition(".")[0].rpartition(".")[2]
    owner = within if within.isidentifier() else "_"
    whole = ast.parse(f"def _({', '.join(outside)}):\n class {owner}:\n  pass")
    maker = whole.body[0]
    assert isinstance(maker, ast.FunctionDef) and isinstance(maker.body[0], ast.ClassDef)
    maker.body[0].body = [tree]
    flags = function.__code__.co_flags & __future__.annotations.compiler_flag
    file = function.__code__.co_filename
    made: CodeType = compile(whole, file, "exec", flags, dont_inherit=True)
    for name in ("_", owner, tree.name):
        inner = [c for c in made.co_consts if isinstance(c, CodeType) and c.co_name == name]
        if not inner:
            return None
        made = inner[0]
    return made


def _facts(code: CodeType) -> tuple[object, ...]:
    """What two compilations of one source have in common; calls of imported modules differ."""
    constants = [repr(x) for x in code.co_consts if not isinstance(x, CodeType)]
    inner = [_facts(x) for x in code.co_consts if isinstance(x, CodeType)]
    names = code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars
    return *names, code.co_firstlineno, constants, inner
