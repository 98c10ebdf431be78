"""focal_plugin/init/weights.py: whether weights can be fetched, without waiting."""

import threading
import time
import urllib.error

import pytest

from focal_plugin.init import weights
from focal_plugin.init.recipes import R50


@pytest.fixture
def answer(monkeypatch, tmp_path):
    """Return a function that sets what the server does; nothing is cached."""
    monkeypatch.setattr(weights, "get_cache_dir", lambda: str(tmp_path))

    def answer(does):
        monkeypatch.setattr(weights.urllib.request, "urlopen", does)

    return answer


def test_a_cached_file_is_enough(answer, tmp_path):
    answer(lambda *_, **__: pytest.fail("it asked the server"))
    file = tmp_path / "detectron2/ImageNetPretrained/MSRA/R-50.pkl"
    file.parent.mkdir(parents=True)
    file.touch()
    assert weights.can_fetch(R50.weights)


def test_the_answer_of_the_server_decides(answer):
    class Response:
        __enter__ = __exit__ = lambda *_: None

    asked = []

    def answers(request, timeout):
        asked.append((request.full_url, request.method))
        return Response()

    answer(answers)
    assert weights.can_fetch(R50.weights)
    ((address, method),) = asked
    assert address.endswith("detectron2/ImageNetPretrained/MSRA/R-50.pkl")
    assert method == "HEAD"

    def fails(*_, **__):
        raise urllib.error.URLError("no route")

    answer(fails)
    assert not weights.can_fetch(R50.weights)


def test_a_server_that_never_answers_costs_the_timeout_only(answer):
    release = threading.Event()

    def hangs(*_, **__):
        release.wait(10)
        raise urllib.error.URLError("too late")

    answer(hangs)
    started = time.perf_counter()
    assert not weights.can_fetch(R50.weights, timeout_s=0.05)
    assert time.perf_counter() - started < 2
    release.set()


def test_another_name_is_a_file(tmp_path):
    assert not weights.can_fetch(str(tmp_path / "none.pth"))
    (tmp_path / "model.pth").touch()
    assert weights.can_fetch(str(tmp_path / "model.pth"))
