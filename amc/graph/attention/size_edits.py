"""Which sizes of views and splits follow a cut, and the words that say so.

Names that hold the width of a tensor are known from ``b, n, c = x.shape``. A view without -1 may
have -1 for any of its sizes and is the same. Where -1 says something else already, or in a split,
the width is that of the heads that are left: ``c * self.heads // heads before any cut``.
"""

import ast
from dataclasses import dataclass

VIEWS = ("reshape", "view", "unflatten")
SPLITS = ("split", "split_with_sizes")
MIXES = ("softmax", "scaled_dot_product_attention", "matmul", "bmm", "baddbmm", "einsum")
"""Functions whose results are of attention."""

WHOLE = "_whole_numbers"
"""Attribute of a module: what its numbers were before any cut."""


@dataclass(frozen=True)
class _Width:
    """What is known of a name that holds a width.

    Attributes:
        own: whether it is the width of what the module is given and projects; that stays.
        part: whether it was divided, as by a number of heads.
    """

    own: bool
    part: bool = False


class SizeEdit(ast.NodeTransformer):
    """Changes a function in place, statement after statement.

    Attributes:
        changed: whether anything was.
        numbers: see `Rewritten`.
    """

    def __init__(self, tree: ast.FunctionDef) -> None:
        given = [one.arg for one in (*tree.args.posonlyargs, *tree.args.args)]
        self._self, self._given = (given or [""])[0], set(given[1:])
        self._projected = _projected(tree, self._self)
        self._heads = _heads(tree, self._self)
        self._widths: dict[str, _Width] = {}
        self._mixed = set[str]()
        self.changed, self.numbers = False, set[str]()

    def visit_Assign(self, node: ast.Assign) -> ast.Assign:
        """Learns what the names hold."""
        known: list[tuple[str, _Width | None]] = []
        for target in node.targets:
            known += self._learnt(target, node.value)
        mixed = self._is_mixed(node.value)
        node.value = self.visit(node.value)
        for name, width in known:
            self._given.discard(name)
            self._widths.pop(name, None)
            if width is not None:
                self._widths[name] = width
            (self._mixed.add if mixed and width is None else self._mixed.discard)(name)
        return node

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        """The input's width divided by a number of heads: by the number before any cut."""
        own = self._width(node.left)
        self.generic_visit(node)
        heads = self._attribute(node.right)
        if isinstance(node.op, ast.FloorDiv | ast.Div) and heads and own == _Width(own=True):
            node.right = self._number(heads, node.right)
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """Sizes of views, and of splits."""
        name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        if name not in VIEWS + SPLITS:
            return self.generic_visit(node)
        sizes, mixed = _sizes(node, name), self._is_mixed(node.func)
        widths = [self._width(one) for one in sizes]
        free = name in VIEWS and not any(_is_open(one) for one in sizes)
        found = [i for i, width in enumerate(widths) if width is not None]
        parts = [i for i in found if widths[i].part]  # type: ignore[union-attr]
        self.generic_visit(node)
        sizes = _sizes(node, name)
        if found and free:
            sizes[(parts or found)[-1]] = ast.Constant(-1)
            self.changed = True
        elif mixed or (name in SPLITS and not self._is_given(node.func)):
            for i in found:
                if widths[i] == _Width(own=True) and self._heads:
                    sizes[i] = self._left(sizes[i])
        return node

    def _left(self, width: ast.expr) -> ast.expr:
        """The input's width, as it is with the heads that are left."""
        heads = ast.Attribute(ast.Name(self._self, ast.Load()), self._heads, ast.Load())
        more = ast.BinOp(width, ast.Mult(), heads)
        return ast.BinOp(more, ast.FloorDiv(), self._number(self._heads, heads))

    def _number(self, name: str, like: ast.expr) -> ast.expr:
        """The words for what an attribute was before any cut."""
        self.numbers.add(name)
        self.changed = True
        held = ast.Attribute(ast.Name(self._self, ast.Load()), WHOLE, ast.Load())
        found = ast.Subscript(held, ast.Constant(name), ast.Load())
        return ast.copy_location(found, like)

    def _learnt(self, target: ast.expr, value: ast.expr) -> list[tuple[str, _Width | None]]:
        """The names that an assignment binds, and the widths that they hold."""
        if isinstance(target, ast.Name):
            return [(target.id, self._width(value))]
        if not isinstance(target, ast.Tuple | ast.List):
            return []
        inner = target.elts
        if isinstance(value, ast.Tuple | ast.List) and len(value.elts) == len(inner):
            pairs = zip(inner, value.elts, strict=True)
            return [one for part, of in pairs for one in self._learnt(part, of)]
        root = _shape_of(value)
        names = [one.id if isinstance(one, ast.Name) else "" for one in inner]
        place = _channel(names) if root is not None else None
        return [
            (name, self._width_of(root) if i == place and root is not None else None)
            for i, name in enumerate(names)
            if name
        ]

    def _width(self, value: ast.expr) -> _Width | None:
        """What is known of the width that an expression is, or is computed from."""
        if isinstance(value, ast.Name):
            return self._widths.get(value.id)
        if (root := _last_size(value)) is not None:
            return self._width_of(root)
        if isinstance(value, ast.Call) and isinstance(value.func, ast.Name):
            return self._width(value.args[0]) if value.func.id == "int" and value.args else None
        if not isinstance(value, ast.BinOp):
            return None
        found = [w for w in (self._width(value.left), self._width(value.right)) if w is not None]
        divided = isinstance(value.op, ast.FloorDiv | ast.Div)
        return _Width(all(w.own for w in found), divided or found[0].part) if found else None

    def _width_of(self, root: ast.expr) -> _Width:
        given = isinstance(root, ast.Name) and root.id in self._given
        return _Width(given and isinstance(root, ast.Name) and root.id in self._projected)

    def _attribute(self, value: ast.expr) -> str:
        """The name of an attribute of self."""
        return _attribute(value, self._self)

    def _is_mixed(self, value: ast.expr) -> bool:
        """Whether something in an expression came out of attention."""
        return any(
            (isinstance(one, ast.Name) and one.id in self._mixed)
            or (isinstance(one, ast.BinOp) and isinstance(one.op, ast.MatMult))
            or (isinstance(one, ast.Call) and _called(one) in MIXES)
            for one in ast.walk(value)
        )

    def _is_given(self, function: ast.expr) -> bool:
        """Whether a method is called of what the module was given."""
        held = function.value if isinstance(function, ast.Attribute) else None
        return isinstance(held, ast.Name) and held.id in self._given


def _attribute(value: ast.AST, self_name: str) -> str:
    held = isinstance(value, ast.Attribute) and isinstance(value.value, ast.Name)
    return value.attr if held and value.value.id == self_name else ""  # type: ignore[attr-defined]


def _called(call: ast.Call) -> str:
    if isinstance(call.func, ast.Attribute):
        return call.func.attr
    return call.func.id if isinstance(call.func, ast.Name) else ""


def _projected(tree: ast.FunctionDef, self_name: str) -> set[str]:
    """Names that are given to modules of self."""
    calls = (one for one in ast.walk(tree) if isinstance(one, ast.Call))
    return {
        given.id
        for call in calls
        if _attribute(call.func, self_name)
        for given in call.args
        if isinstance(given, ast.Name)
    }


def _heads(tree: ast.FunctionDef, self_name: str) -> str:
    """The attribute that is the number of heads, as far as can be told; empty if none can."""
    divisors = [
        _attribute(one.right, self_name)
        for one in ast.walk(tree)
        if isinstance(one, ast.BinOp) and isinstance(one.op, ast.FloorDiv | ast.Div)
    ]
    sizes = [
        _attribute(size, self_name)
        for one in ast.walk(tree)
        if isinstance(one, ast.Call) and _called(one) in VIEWS
        for size in _sizes(one, _called(one))
    ]
    likely = [x for x in sizes if "head" in x and "dim" not in x and "size" not in x]
    return next((x for x in (*divisors, *likely) if x), "")


def _sizes(call: ast.Call, name: str) -> list[ast.expr]:
    """The sizes that a view or split is given: the list that holds them, which may be changed."""
    given = call.args
    of_torch = isinstance(call.func, ast.Attribute) and (
        isinstance(call.func.value, ast.Name) and call.func.value.id == "torch"
    )
    if name == "unflatten" or of_torch:
        given = given[1 + (name == "unflatten" and of_torch) :]
        return given[0].elts if given and isinstance(given[0], ast.Tuple | ast.List) else []
    if given and isinstance(given[0], ast.Tuple | ast.List):
        return given[0].elts
    return given[:0] if name in SPLITS and not given else given


def _is_open(size: ast.expr) -> bool:
    """Whether a size is -1, or may be."""
    if isinstance(size, ast.Starred):
        return not any(
            isinstance(one, ast.Attribute) and one.attr in ("shape", "size")
            for one in ast.walk(size)
        )
    return (
        isinstance(size, ast.UnaryOp)
        and isinstance(size.op, ast.USub)
        and isinstance(size.operand, ast.Constant)
    )


def _shape_of(value: ast.expr) -> ast.expr | None:
    """x, if the expression is x.shape or x.size()."""
    if isinstance(value, ast.Attribute) and value.attr == "shape":
        return value.value
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute):
        if value.func.attr == "size" and not value.args and not value.keywords:
            return value.func.value
    return None


def _last_size(value: ast.expr) -> ast.expr | None:
    """x, if the expression is x.shape[-1], x.size(-1), or of the third dimension."""
    root, place = None, None
    if isinstance(value, ast.Subscript):
        root, place = _shape_of(value.value), value.slice
    elif isinstance(value, ast.Call) and _called(value) == "size" and len(value.args) == 1:
        function = value.func
        root = function.value if isinstance(function, ast.Attribute) else None
        place = value.args[0]
    try:
        return root if place is not None and ast.literal_eval(place) in (-1, 2) else None
    except ValueError:
        return None


def _channel(names: list[str]) -> int | None:
    """Which of the names for the sizes of a tensor stands for its width."""
    last = names[-1].lower()
    if last and not last.startswith("w"):
        return len(names) - 1
    return 1 if len(names) == 4 else None
