import torch

from focal_plugin.diagnostics.positives import count_positives


def test_positives_are_counted_by_level_class_and_object():
    labels = torch.tensor([[0, 2, 2, -1, 1], [3, 0, 3, 0, 0]])
    objects = torch.tensor([[1, 0, 0, 9, 2], [9, 0, 9, 1, 0]])
    counts = count_positives(labels, objects, num_classes=3, sizes=[2, 3])
    assert counts.of_levels.tolist() == [3, 4]
    assert counts.of_classes.tolist() == [4, 1, 2]
    assert counts.of_objects.tolist() == [2, 1, 1, 2, 1]


def test_without_positives_or_known_objects_the_counts_are_zero_or_missing():
    labels = torch.tensor([[3, -1], [3, 3]])
    counts = count_positives(labels, labels, num_classes=3, sizes=[1, 1])
    assert counts.of_levels.tolist() == [0, 0]
    assert counts.of_classes.tolist() == [0, 0, 0]
    assert counts.of_objects.tolist() == []
    assert count_positives(labels, None, num_classes=3, sizes=[2]).of_objects is None
