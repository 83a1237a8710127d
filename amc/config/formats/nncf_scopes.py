"""NNCF's scopes as patterns of layers, and back.

A scope such as ``ResNet/Sequential[layer1]/BasicBlock[0]/NNCFConv2d[conv1]/conv2d_0`` names the
modules on the way to a layer: ``layer1.0.conv1``. One that ends at a module which is no layer
means all layers inside: ``layer1.*``. Behind ``{re}`` stands a regular expression; it is looked
for in the dotted name of a layer and in its scope.
"""

import re

REGEX = "{re}"

INSIDE = re.compile(r"\[([^\[\]]*)\]")
LAYER = re.compile(r"(NNCF)?(Conv|Linear|ConvTranspose)\w*\[[^\[\]]*\]$|/\w+$")
PLAIN = re.compile(r"[\w-]+(\.[\w-]+)*(\.\*)?")


def pattern_of(scope: str) -> str:
    """The pattern of layers that a scope means; a dotted name or a glob is one already."""
    if REGEX in scope:
        regex = scope.replace(REGEX, "")
        names = re.findall(r"\\\[(.*?)\\\]", regex)
        for pattern in (".".join(names), ".".join([*names, "*"])):
            if names and _regex(pattern) == regex:
                return pattern
        return REGEX + regex
    names = INSIDE.findall(scope)
    if not names:
        return scope
    return ".".join(names if LAYER.search(scope) else [*names, "*"])


def scope_of(pattern: str) -> str | None:
    """The scope of a layer's name, of ``name.*`` or of ``{re}...``; of others there is none."""
    if pattern.startswith(REGEX):
        return pattern
    return REGEX + _regex(pattern) if PLAIN.fullmatch(pattern) else None


def _regex(pattern: str) -> str:
    """A regular expression of NNCF's scopes; what its bracket parts name is the pattern."""
    *names, last = pattern.split(".")
    inside = last == "*"
    path = "/".join(rf"[^/]*\[{name}\]" for name in (names if inside else [*names, last]))
    return f"^[^/]*/{path}/" + ("" if inside else "[^/]*$")
