"""Listings: nothing beyond 100 columns, nothing of the code lost."""

from __future__ import annotations

import ast
import inspect

import pytest

from minidetr.course.listing import WIDEST, narrowed, source
from minidetr.model.mask_head import MaskHead
from minidetr.model.merge import merge
from minidetr.training import matching

LONG = f'''\
def f(a):
    """A first line.

    {"word " * 30}
    and a short one.

        an example stays in its own paragraph
    """
    # {"more " * 30}
    # the comment's second line
    b = a + {"1 + " * 18 + "1"}  # {"trailing " * 5}
    return "{"x" * 120}", b
'''


@pytest.mark.parametrize("thing", [MaskHead, merge, matching.matching_cost], ids=lambda thing: thing.__name__)
def test_a_listing_is_the_code_itself(thing):
    listing = source(thing)
    assert max(map(len, listing.code.splitlines())) <= WIDEST

    def tree(code: str) -> str:
        parsed = ast.parse(code)
        for node in ast.walk(parsed):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and ast.get_docstring(node):
                node.body[0].value.value = " ".join(ast.get_docstring(node).split())
        return ast.dump(parsed)

    assert tree(listing.code) == tree(inspect.getsource(thing))
    assert listing._repr_markdown_() == f"```python\n{listing.code}\n```"
    assert repr(listing) == listing.code


def test_long_docstrings_comments_and_trailing_comments_are_wrapped():
    lines = narrowed(LONG).splitlines()
    too_long = [line for line in lines if len(line) > WIDEST]
    assert [line.strip()[:10] for line in too_long] == ['"xxxxxxxxx']  # a string is code: nobody may cut it
    text = "\n".join(lines)
    assert text.count("word") == 30 and text.count("more") == 30 and text.count("trailing") == 5
    assert text.index("trailing") < text.index("b = a + ")  # the comment stands above its line
    assert "    # more" in text and "the comment's second line" in text
    namespace: dict = {}
    exec(text, namespace)
    assert namespace["f"](1)[1] == 20


def test_several_things_stand_below_one_another():
    assert source(merge, MaskHead).code.startswith("def merge(")
    assert "\n\n\nclass MaskHead" in source(merge, MaskHead).code
