"""Random generators that are seeded by the purpose of a draw, and restored afterwards."""

import random

import numpy as np
import pytest
import torch

from focal_plugin.random_state import generators_kept, seed_all, seed_from, seeded


def draws():
    """Return one draw from each generator."""
    return torch.rand(3).tolist(), np.random.rand(3).tolist(), [random.random() for _ in range(3)]


def test_a_seed_is_the_same_on_every_machine():
    assert seed_from(3, "sample", 5) == 3138931382745575459
    assert seed_from(np.int64(3), "sample", 5) == seed_from(3, "sample", 5)


def test_each_key_has_a_seed_of_its_own():
    keys = [(), (1,), ("1",), (1, 2), (12,), ("1, 2",), ("a", "b"), ("ab",), ("b", "a"), (-1,)]
    keys += [(0, "sample", number) for number in range(1000)]
    assert len({seed_from(*key) for key in keys}) == len(keys)


def test_a_seed_has_63_bits():
    seeds = [seed_from(number) for number in range(200)]
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert max(seeds) > 2**62


def test_all_generators_are_seeded():
    with generators_kept():
        seed_all(1, "a")
        first = draws()
        draws()
        seed_all(1, "a")
        assert draws() == first
        seed_all(1, "b")
        others = draws()
    assert all(x != y for x, y in zip(first, others, strict=True))


def test_gpus_are_seeded_too(monkeypatch):
    seeds = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeds.append)
    with generators_kept():
        seed_all(1)
    assert seeds == [seed_from(1, "cuda")]


def test_no_two_generators_draw_the_same_numbers():
    """PyTorch, NumPy and Python run the same algorithm."""
    with seeded(1):
        in_torch = torch.rand(3, dtype=torch.float64).tolist()
        _, in_numpy, in_python = draws()
    assert len({*in_torch, *in_numpy, *in_python}) == 9


@pytest.mark.parametrize("scope", [generators_kept, lambda: seeded(5)], ids=["kept", "seeded"])
@pytest.mark.parametrize("fails", [False, True])
def test_generators_are_left_as_they_were_found(scope, fails):
    with generators_kept():
        seed_all(2)
        expected = draws()
        seed_all(2)
        try:
            with scope():
                draws()
                assert not fails
        except AssertionError:
            pass
        assert draws() == expected


def test_draws_depend_on_the_key():
    with seeded(1, "a"):
        first = draws()
        with seeded(1, "b"):
            draws()
        second = draws()
    with seeded(1, "a"):
        assert (draws(), draws()) == (first, second)


def test_gpus_are_not_touched_where_only_the_cpu_is_seeded(monkeypatch):
    def fail(*_):
        raise AssertionError

    for name in ("manual_seed", "manual_seed_all", "set_rng_state"):
        monkeypatch.setattr(torch.cuda, name, fail)
    with seeded(1):
        draws()
