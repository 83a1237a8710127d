"""Every public name says what it is, and its example runs."""

import doctest
import importlib

import pytest

import amc

ALIASES = ("Strategy",)
"""Names of types, which have no docstring of their own."""


@pytest.mark.parametrize("name", [name for name in amc.__all__ if name not in ALIASES])
def test_the_example_of_a_public_name_runs(name: str) -> None:
    one = getattr(amc, name)
    module = importlib.import_module(one.__module__)
    tests = doctest.DocTestFinder(recurse=False).find(one, name, module=module, globs={})
    assert [test for test in tests if test.examples], f"{name} has no example"
    for test in tests:
        found = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test)
        assert not found.failed
