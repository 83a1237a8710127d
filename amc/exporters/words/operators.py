"""An operator of an exported program as the words a person would write for it.

Operators without such words are called by their own names, ``torch.ops.aten``, which every
PyTorch has. Methods and functions of ``torch`` that are written in Python are left alone: what
they make of their arguments is not in the operator's schema.
"""

from __future__ import annotations

import ast
import types
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.fx import Node

from amc.exporters.words.literals import literal
from amc.exporters.words.unwritable import Unwritable

INFIX = {
    "add.Tensor": "+", "sub.Tensor": "-", "mul.Tensor": "*", "div.Tensor": "/",
    "add.Scalar": "+", "sub.Scalar": "-", "mul.Scalar": "*", "div.Scalar": "/",
    "pow.Tensor_Scalar": "**", "pow.Tensor_Tensor": "**", "pow.Scalar": "**",
    "matmul.default": "@", "floor_divide.default": "//",
    "remainder.Scalar": "%", "remainder.Tensor": "%",
    "gt.Scalar": ">", "gt.Tensor": ">", "lt.Scalar": "<", "lt.Tensor": "<",
    "ge.Scalar": ">=", "ge.Tensor": ">=", "le.Scalar": "<=", "le.Tensor": "<=",
    "eq.Scalar": "==", "eq.Tensor": "==", "ne.Scalar": "!=", "ne.Tensor": "!=",
    "bitwise_and.Tensor": "&", "bitwise_or.Tensor": "|", "bitwise_xor.Tensor": "^",
}  # fmt: skip

PREFIX = {"neg.default": "-", "bitwise_not.default": "~"}

FUNCTIONAL = {
    "relu.default", "silu.default", "gelu.default", "elu.default", "leaky_relu.default",
    "hardtanh.default", "hardswish.default", "hardsigmoid.default", "softplus.default",
    "mish.default", "relu6.default", "glu.default", "softshrink.default", "hardshrink.default",
    "avg_pool1d.default", "avg_pool2d.default", "avg_pool3d.default",
    "max_pool1d.default", "max_pool2d.default", "max_pool3d.default",
    "adaptive_avg_pool1d.default", "adaptive_avg_pool2d.default", "adaptive_avg_pool3d.default",
    "pad.default", "linear.default", "dropout.default",
    "conv1d.default", "conv2d.default", "conv3d.default",
    "conv1d.padding", "conv2d.padding", "conv3d.padding",
    "scaled_dot_product_attention.default", "one_hot.default", "pixel_shuffle.default",
    "pixel_unshuffle.default",
}  # fmt: skip
"""Operators that `torch.nn.functional` has under the same name with the same arguments."""

RENAMED = {
    "im2col.default": "unfold", "col2im.default": "fold",
    "conv_transpose1d.default": "conv_transpose1d",
    "conv_transpose2d.input": "conv_transpose2d", "conv_transpose3d.input": "conv_transpose3d",
}  # fmt: skip

UPSAMPLED = {
    "upsample_nearest1d.vec": "nearest", "upsample_nearest2d.vec": "nearest",
    "upsample_nearest3d.vec": "nearest", "upsample_bilinear2d.vec": "bilinear",
    "upsample_bicubic2d.vec": "bicubic", "upsample_linear1d.vec": "linear",
    "upsample_trilinear3d.vec": "trilinear",
}  # fmt: skip

SPREAD = {"view.default", "reshape.default", "permute.default", "expand.default", "repeat.default"}
"""Methods whose sizes are written one by one."""

PYTHON = {"split.Tensor": "split", "split_with_sizes.default": "split",
          "unflatten.int": "unflatten"}  # fmt: skip
"""Methods in Python that do just what the operator does."""

END = 2**63 - 1


class Words(Protocol):
    """What the text of an operator is made of."""

    def value(self, node: Node) -> str:
        """A tensor."""

    def number(self, node: Node, near: Sequence[Node]) -> str:
        """A number; ``near`` are tensors of the same operator, whose sizes are looked at first."""

    def device(self) -> str:
        """Where the tensors are."""


def text_of(node: Node, words: Words, plain: bool = True) -> str:
    """The text that computes what the node does.

    Args:
        node: a call of an operator.
        words: texts of what it reads.
        plain: whether to write what a person would; otherwise, operators by their own names.

    Raises:
        Unwritable: PyTorch alone has no such operator.
    """
    return _Writer(node, words).text(plain)


class _Writer:
    def __init__(self, node: Node, words: Words) -> None:
        self.node, self.words = node, words
        self.args: list[Any] = list(node.args)
        self.kwargs: dict[str, Any] = dict(node.kwargs)

    def text(self, plain: bool) -> str:
        target: Any = self.node.target
        if getattr(target, "__name__", "") == "getitem" and target.__module__ == "_operator":
            return f"{self.atom(self.args[0])}[{self.args[1]}]"
        if not isinstance(target, torch._ops.OpOverload):
            raise Unwritable(f"forward holds {_named(target)}, which is no operator")
        if target.namespace not in ("aten", "prims"):
            raise Unwritable(f"{target} is an operator that PyTorch alone does not have")
        written = self._plain(str(target).removeprefix("aten."), target) if plain else None
        if written is None:
            kept = {"layout": "torch.strided"} if "layout" in self.kwargs else {}
            written = f"torch.ops.{target}({self._listed(self.args, self.kwargs, kept)})"
        return written

    def _plain(self, name: str, target: Any) -> str | None:
        args, kwargs = self.args, self.kwargs
        if name in INFIX and len(args) == 2 and not kwargs:
            return f"{self.atom(args[0])} {INFIX[name]} {self.atom(args[1])}"
        if name in PREFIX:
            return f"{PREFIX[name]}{self.atom(args[0])}"
        if name == "rsub.Scalar" and len(args) == 2:
            return f"{self.atom(args[1])} - {self.atom(args[0])}"
        if name == "lift_fresh_copy.default":
            return f"{self.atom(args[0])}.clone()"
        for way in (self._indexed, self._normalised, self._functional, self._method):
            if (text := way(name, target)) is not None:
                return text
        return None

    def _indexed(self, name: str, target: Any) -> str | None:
        args = self.args
        if name == "slice.Tensor" and (len(args) < 2 or type(args[1]) is int):
            missing: tuple[Any, ...] = (0, None, None, 1)[len(args) - 1 :]
            dim, start, end, step = (*args[1:], *missing)
            if dim >= 0 or dim == -1:
                begin = "" if start in (0, None) else self.any(start)
                stop = "" if end in (END, None) else self.any(end)
                by = "" if step == 1 else f":{self.any(step)}"
                return f"{self.atom(args[0])}[{_before(dim)}{begin}:{stop}{by}]"
        if name == "select.int" and type(args[1]) is int and args[1] >= -1:
            return f"{self.atom(args[0])}[{_before(args[1])}{self.any(args[2])}]"
        if name == "index.Tensor":
            inside = [":" if x is None else self.any(x) for x in args[1]]
            return f"{self.atom(args[0])}[{', '.join(inside)}]"
        return None

    def _normalised(self, name: str, target: Any) -> str | None:
        args = self.args
        if self.kwargs:
            return None
        if name == "batch_norm.default" and len(args) == 9:
            x, weight, bias, mean, var, training, momentum, eps, _ = map(self.any, args)
            scaled = "" if (weight, bias) == ("None", "None") else f", {weight}, {bias}"
            how = "" if training == "False" else f", training={training}, momentum={momentum}"
            return f"F.batch_norm({x}, {mean}, {var}{scaled}{how}, eps={eps})"
        if name in ("layer_norm.default", "group_norm.default"):
            given = list(map(self.any, args[:5]))
            given[4:] = [f"eps={given[4]}"] if len(given) > 4 else []
            return f"F.{name.partition('.')[0]}({', '.join(given)})"
        if name == "embedding.default" and len(args) == 2:
            return f"F.embedding({self.any(args[1])}, {self.any(args[0])})"
        return None

    def _functional(self, name: str, target: Any) -> str | None:
        if name in FUNCTIONAL or name in RENAMED:
            if name == "elu.default" and len(self.args) > 2:
                return None
            function = RENAMED.get(name, name.partition(".")[0])
            return f"F.{function}({self._listed(self.args, self.kwargs)})"
        if name in UPSAMPLED and not self.kwargs:
            x, size, *rest = self.args
            aligned, scales = (None, *rest)[-2:] if len(rest) < 2 else (rest[0], rest[1])
            if (size is None) == (scales is None):
                return None
            sized = f"size={self.any(size)}" if scales is None else _scaled(scales)
            corners = "" if aligned in (None, False) else ", align_corners=True"
            return f'F.interpolate({self.any(x)}, {sized}, mode="{UPSAMPLED[name]}"{corners})'
        return None

    def _method(self, name: str, target: Any) -> str | None:
        """A method of tensors or a function of torch with the arguments of the operator."""
        short = PYTHON.get(name, target._schema.name.partition("::")[2])
        args, kwargs = list(self.args), self.kwargs
        names = [one.name for one in target._schema.arguments]
        listed = {}
        for place in range(len(args) - 1, 0, -1):  # flags by their names
            if type(args[place]) is not bool or name in PYTHON:
                break
            listed[names[place]] = args.pop(place)
        kwargs = {**dict(reversed(listed.items())), **kwargs}
        if names and names[0] == "self" and args and _builtin(torch.Tensor, short, name in PYTHON):
            if name in SPREAD and not kwargs and len(args) == 2 and args[1]:
                return f"{self.atom(args[0])}.{short}({', '.join(map(self.any, args[1]))})"
            return f"{self.atom(args[0])}.{short}({self._listed(args[1:], kwargs)})"
        if _builtin(torch, short, short == "einsum"):
            return f"torch.{short}({self._listed(args, kwargs)})"
        return None

    def _listed(
        self, args: Sequence[Any], kwargs: dict[str, Any], kept: dict[str, str] | None = None
    ) -> str:
        """Arguments as they stand between parentheses."""
        words = [self.any(one) for one in args]
        for name, value in kwargs.items():
            if name == "pin_memory" or (name == "layout" and not kept):
                continue
            words.append(f"{name}={(kept or {}).get(name) or self.any(value)}")
        return ", ".join(words)

    def any(self, value: Any) -> str:
        """The text of an argument."""
        if isinstance(value, Node):
            if isinstance(value.meta.get("val"), Tensor | tuple | list):
                return self.words.value(value)
            return self.words.number(value, [x for x in self.args if isinstance(x, Node)])
        if isinstance(value, torch.device):
            return self.words.device()
        if isinstance(value, list | tuple):
            inside = [self.any(one) for one in value]
            if any(isinstance(one, Node) and _is_tensor(one) for one in value):
                return f"[{', '.join(inside)}]"
            return f"({', '.join(inside)}{',' if len(inside) == 1 else ''})"
        return literal(value)

    def atom(self, value: Any) -> str:
        """The text of an argument, in parentheses where operators are around it."""
        return in_parentheses(self.any(value))


def in_parentheses(text: str) -> str:
    """The text so that an operator, or a dot, may stand beside it."""
    body = ast.parse(text, mode="eval").body
    whole = isinstance(body, ast.Name | ast.Call | ast.Attribute | ast.Subscript | ast.Constant)
    number = isinstance(body, ast.Constant) and not isinstance(body.value, str)
    return text if whole or number else f"({text})"


def _before(dim: int) -> str:
    return "..., " if dim == -1 else ":, " * dim


def _scaled(scales: Sequence[float]) -> str:
    words = [repr(int(s)) if float(s).is_integer() else repr(float(s)) for s in scales]
    return f"scale_factor={words[0] if len(set(words)) == 1 else '(' + ', '.join(words) + ',)'}"


def _is_tensor(node: Node) -> bool:
    return isinstance(node.meta.get("val"), Tensor)


def _builtin(owner: Any, name: str, python: bool) -> bool:
    """Whether it is a function of PyTorch's core, or one in Python that is as good."""
    found = getattr(owner, name, None)
    if found is None or name.startswith("_"):
        return False
    return python or isinstance(
        found, types.BuiltinFunctionType | types.MethodDescriptorType | types.BuiltinMethodType
    )


def _named(target: Any) -> str:
    return str(getattr(target, "__name__", target))[:80]
