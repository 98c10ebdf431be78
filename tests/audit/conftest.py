"""Short search for anchors, because it takes most of the time of an audit."""

import pytest

from focal_plugin.audit import anchor_search


@pytest.fixture(scope="session", autouse=True)
def short_search():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(anchor_search, "GENERATIONS", 2)
        yield
