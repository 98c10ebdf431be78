"""tools/pages.py: generated parts of the documentation."""

import pytest

from .tools import load_tool

BEGIN, END = "<!-- table: tools/a.py -->", "<!-- end of table -->"


def test_content_is_placed_between_the_marks_and_the_rest_stays():
    fill = load_tool("pages").fill
    page = fill(f"before\n{BEGIN}\nold\n{END}\nafter", "table", "a", "new")
    assert page == f"before\n{BEGIN}\nnew\n{END}\nafter"
    assert fill(page, "table", "a", "new") == page


@pytest.mark.parametrize("broken", [BEGIN, END, f"{END} {BEGIN}", f"{BEGIN}{BEGIN}{END}"])
def test_a_page_without_both_marks_once_is_an_error(broken):
    with pytest.raises(ValueError, match=r"must contain <!-- table: tools/a\.py -->"):
        load_tool("pages").fill(broken, "table", "a", "new")
