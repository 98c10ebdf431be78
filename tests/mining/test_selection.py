import torch

from focal_plugin.mining.selection import highest

from ..each import each


@each("count", [0, 1, 3, 50, 99, 100, 101, 10_000])
def test_highest_is_the_head_of_a_stable_sort(count):
    generator = torch.Generator().manual_seed(count)
    loss = torch.randint(0, 5, (100,), generator=generator).float()
    keep = highest(loss, torch.ones(100, dtype=torch.bool), count)
    expected = loss.argsort(descending=True, stable=True)[:count].sort().values
    assert torch.equal(keep.nonzero().squeeze(1), expected)


def test_candidates_at_minus_infinity_come_before_other_anchors():
    loss = torch.full((6,), -float("inf"))
    candidates = torch.tensor([False, False, True, True, False, True])
    keep = highest(loss, candidates, 2)
    assert keep.nonzero().squeeze(1).tolist() == [2, 3]
