"""tools/fuzz_coco.py finds no difference between check and run, unless one is planted."""

import json
from collections import Counter

import pytest

from focal_plugin.data.checks import coco_rules

from .tools import load_tool

fuzz_coco = load_tool("fuzz_coco")
coco_mutations = load_tool("coco_mutations")


def test_random_files_are_refused_or_do_what_the_check_says():
    verdicts = fuzz_coco.run(range(80))
    failed = {n: verdict for n, (verdict, _) in verdicts.items() if verdict.failed}
    assert failed == {}, "repeat one with: python tools/fuzz_coco.py --files 1 --first NUMBER"
    kinds = Counter(verdict.kind for verdict, _ in verdicts.values())
    assert kinds["refused"] > 40
    assert kinds["clean"] + kinds["warned"] > 10


def test_a_seed_is_one_file_and_other_seeds_are_others(tmp_path):
    valid = coco_mutations.valid_dataset(tmp_path)
    before = json.dumps(valid)
    mutants = [coco_mutations.mutate(valid, str(seed)) for seed in range(50)]
    assert json.dumps(valid) == before
    assert mutants == [coco_mutations.mutate(valid, str(seed)) for seed in range(50)]
    assert len({mutant.raw for mutant in mutants}) > 45


def judge(tmp_path, change):
    content = coco_mutations.valid_dataset(tmp_path)
    change(content)
    (tmp_path / "file.json").write_text(json.dumps(content))
    return fuzz_coco.judge(tmp_path / "file.json", tmp_path)


def test_the_valid_file_is_clean(tmp_path):
    assert judge(tmp_path, lambda content: None) == ("clean", "")


PLANTED = {
    "an empty box without its warning": (
        {"EMPTY": -1.0},
        lambda content: content["annotations"][0].update(bbox=[1, 2, 0, 4]),
        "silent",
    ),
    "an illegal id of an image": (
        {"wrong_ids": lambda ids: []},
        lambda content: content["images"][0].update(id=float("inf")),
        "exception",
    ),
    "a text as a box": (
        {"_array_of": lambda boxes: coco_rules.np.zeros((len(boxes), 4))},
        lambda content: content["annotations"][0].update(bbox="1 2 3 4"),
        "exception",
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_fault_of_the_check_is_found(tmp_path, monkeypatch, name):
    faults, change, kind = PLANTED[name]
    assert judge(tmp_path, change).kind in ("refused", "warned")
    for attribute, value in faults.items():
        monkeypatch.setattr(coco_rules, attribute, value)
    (tmp_path / "again").mkdir()
    assert judge(tmp_path / "again", change).kind == kind


@pytest.mark.parametrize(("kind", "code"), [("silent", 1), ("clean", 0)])
def test_a_failure_is_the_exit_code_with_the_command_to_repeat_it(monkeypatch, capsys, kind, code):
    verdict = fuzz_coco.Verdict(kind, "detail")
    monkeypatch.setattr(fuzz_coco, "judge", lambda *args, **options: verdict)
    assert fuzz_coco.main(["--first", "7", "--files", "2"]) == code
    printed = capsys.readouterr().out
    assert f"2 files: 2 {kind}" in printed
    assert ("tools/fuzz_coco.py --files 1 --first 7" in printed) == bool(code)
