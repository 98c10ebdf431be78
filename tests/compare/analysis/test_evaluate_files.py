"""Evaluation of many files in several processes."""

import os

import numpy as np
import pytest

from focal_plugin.compare.analysis import evaluate_files
from focal_plugin.compare.analysis.detections.coco_json import read_ground_truth
from focal_plugin.compare.analysis.evaluate_files import FileOfRun

from .detections.coco_cases import random_case, write

OPTIONS = {"replicates": 5, "metrics": ("AP", "AR")}


@pytest.fixture
def files(tmp_path):
    return [FileOfRun(write(tmp_path, random_case(0)[1][9 * i :], f"{i}.json")) for i in range(4)]


def test_several_processes_give_the_numbers_of_one(tmp_path, files, monkeypatch):
    truth = read_ground_truth(write(tmp_path, random_case(0)[0]))
    alone = [found() for found in evaluate_files.evaluate_files(truth, files, **OPTIONS)]
    monkeypatch.setattr(evaluate_files, "_WORTH_PROCESSES", 0)
    monkeypatch.setattr(evaluate_files, "usable_processes", lambda: 2)
    together = [found() for found in evaluate_files.evaluate_files(truth, files, **OPTIONS)]
    assert len({run.averages["AP"] for run in alone}) == 4
    for mine, theirs in zip(together, alone, strict=True):
        assert mine.averages == theirs.averages
        np.testing.assert_array_equal(mine.resampled.samples, theirs.resampled.samples)
        np.testing.assert_array_equal(mine.scores.f1, theirs.scores.f1)


@pytest.mark.parametrize(
    ("processors", "mib", "expected"), [(2, 4, 2), (64, 4, 8), (8, 100, 2), (8, 2000, 1)]
)
def test_processors_files_and_memory_limit_the_processes(
    tmp_path, monkeypatch, processors, mib, expected
):
    files = [tmp_path / f"{i}.json" for i in range(8)]
    for file in files:
        file.touch()
        os.truncate(file, mib * 2**20)
    monkeypatch.setattr(evaluate_files, "usable_processes", lambda: processors)
    assert evaluate_files._processes(files) == expected
    for file in files:
        os.truncate(file, 2**20)
    assert evaluate_files._processes(files) == 1
