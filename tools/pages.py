"""Generated parts of the documentation pages, between two HTML comments each."""

from __future__ import annotations


def fill(page: str, part: str, tool: str, content: str) -> str:
    """
    Return the page with ``content`` between the marks of ``part``.

    The marks are `<!-- PART: tools/TOOL.py -->` and `<!-- end of PART -->`.

    Raises:
        ValueError: the page does not contain both marks once and in this order.
    """
    begin, end = f"<!-- {part}: tools/{tool}.py -->", f"<!-- end of {part} -->"
    if page.count(begin) != 1 or page.count(end) != 1 or page.index(begin) > page.index(end):
        raise ValueError(f"the page must contain {begin} and then {end}, once each")
    before, _, rest = page.partition(begin)
    return f"{before}{begin}\n{content}\n{end}{rest.partition(end)[2]}"
