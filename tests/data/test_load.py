"""Names of data: what they may be, and what is near."""

from __future__ import annotations

import re

import pytest

from amc.data import load_data
from data_streams import refused


@pytest.mark.parametrize(
    ("spec", "nearest"),
    [
        ("digit", "digits"),
        ("glyph:x/y", "glyphs"),
        ("cifar10", "cifar10:/path"),
        ("cifar100:", "cifar100:/path"),
        ("cfar10:/data", "cifar10:/path"),
        ("idx", "idx:/path[?set=name&train=images&flip=1]"),
        ("imagefolder", "imagefolder:/path[?size=pixels&crop=part&workers=processes]"),
        ("digits:x", "digits"),
        ("", None),
        ("zzz", None),
    ],
)
def test_unknown_data_is_told_the_forms_and_the_nearest(spec, nearest):
    line = refused(lambda: load_data(spec), repr(spec), "glyphs", "package.module:function")
    hint = re.search(r"did you mean (.*)\?$", line)
    assert (hint and hint[1]) == nearest
