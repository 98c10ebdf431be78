"""A damaged checkpoint, or that of another run, is refused, and nothing is overwritten."""

import json
import shutil

import pytest
import torch

from .runs import TWO_PROCESSES, checkpoint, content_of, copy_of, differences

LAST = "model_0000005.pth"


def flip_a_byte(folder):
    """Flip a byte in the middle of the file, where the tensors are."""
    content = bytearray((folder / LAST).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / LAST).write_bytes(content)


def truncate(folder):
    with (folder / LAST).open("r+b") as file:
        file.truncate(500_000)


def empty(folder):
    (folder / LAST).write_bytes(b"")


def replace_by_text(folder):
    (folder / LAST).write_text("not what it was")
    (folder / f"{LAST}.sha256").unlink()


def replace_by_another_trainers(folder):
    content = checkpoint(folder / LAST)
    torch.save({key: content[key] for key in ("model", "iteration")}, folder / LAST)
    (folder / f"{LAST}.sha256").unlink()


def remove(folder):
    (folder / LAST).unlink()


def name_nothing(folder):
    (folder / "last_checkpoint").write_text("")


def name_one_outside(folder):
    shutil.copy(folder / LAST, folder.parent / LAST)
    (folder / "last_checkpoint").write_text(f"../{LAST}")


DAMAGES = {  # damage -> parts of the message
    flip_a_byte: [f"{LAST} is damaged: its SHA-256 is"],
    truncate: [f"{LAST} is truncated", "500000 bytes"],
    empty: [f"{LAST} is empty"],
    replace_by_text: [f"{LAST} is not a PyTorch checkpoint"],
    replace_by_another_trainers: [f"{LAST} was written by another trainer"],
    remove: ["last_checkpoint names", LAST, "does not exist"],
    name_nothing: ["last_checkpoint is empty"],
    name_one_outside: [f"last_checkpoint names '../{LAST}'", "not a path"],
}


def other_images(folder, *, gone=""):
    """Copy the dataset with one box moved or one class removed."""

    def make(images):
        content = json.loads((images / "annotations.json").read_text())
        if gone:
            (category,) = (x["id"] for x in content["categories"] if x["name"] == gone)
            content["categories"] = [x for x in content["categories"] if x["id"] != category]
            content["annotations"] = [
                x for x in content["annotations"] if x["category_id"] != category
            ]
        else:
            content["annotations"][0]["bbox"][0] += 1
        folder.mkdir()
        (folder / "annotations.json").write_text(json.dumps(content))
        (folder / "images").symlink_to(images / "images")
        return folder

    return make


def gamma(folder, images):
    return {"MODEL__RETINANET__FOCAL_LOSS_GAMMA": 1.0}


def seed(folder, images):
    return {"SEED": 8}


def data(folder, images):
    return {"images": other_images(folder)(images)}


def classes(folder, images):
    changed = other_images(folder, gone="plus")(images)
    return {"images": changed, "MODEL__RETINANET__NUM_CLASSES": 4}


CHANGES = {  # change -> its description
    gamma: ["MODEL.RETINANET.FOCAL_LOSS_GAMMA: 2.0 in the checkpoint, 1.0 now"],
    seed: ["SEED: ", " in the checkpoint, 8 now"],
    data: ["DATASETS.TRAIN[tiny].json_sha256: "],
    classes: [
        "MODEL.RETINANET.NUM_CLASSES: 5 in the checkpoint, 4 now",
        "DATASETS.TRAIN[tiny].classes: ",
    ],
}


@pytest.fixture(scope="module")
def refused(runs_in, tmp_path_factory, killed, tiny_shapes, in_background):
    """Return case -> the refused run, and the files that it changed."""

    def resume(case, runs):
        copy_of(killed, runs.output)
        keys = {}
        if case in DAMAGES:
            case(runs.output)
        else:
            keys = case(runs.output.parent / "images", tiny_shapes)
        before = content_of(runs.output)
        run = runs.resume(**keys)
        run.wait()
        after = content_of(runs.output)
        return run, {name for name in before | after if before.get(name) != after.get(name)}

    return {
        case: in_background(resume, case, runs_in(tmp_path_factory.mktemp(case.__name__)))
        for case in (*DAMAGES, *CHANGES)
    }


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_not_resumed_from(refused, damage):
    run, _ = refused[damage].result()
    assert run.wait() == 2
    message = run.text[run.text.rindex("CheckpointError: ") :]
    for part in DAMAGES[damage]:
        assert part in message
    assert "Traceback" not in run.text


@pytest.mark.parametrize("change", CHANGES)
def test_another_run_is_refused_with_what_differs(refused, change):
    run, _ = refused[change].result()
    assert run.wait() == 2
    message = run.text[run.text.rindex("CheckpointError: ") :]
    for part in CHANGES[change]:
        assert part in message
    assert "--allow-config-change" in message


@pytest.mark.parametrize("case", [*DAMAGES, *CHANGES])
def test_what_is_refused_changes_no_file_of_the_run(refused, case):
    _, changed = refused[case].result()
    assert changed == set()


def test_two_processes_refuse_once(runs, killed):
    copy_of(killed, runs.output)
    flip_a_byte(runs.output)
    run = runs.resume(*TWO_PROCESSES)
    assert run.wait() == 2
    assert run.text.count("CheckpointError: ") == 1


@pytest.mark.parametrize("damage", [flip_a_byte, truncate, remove])
def test_with_a_fallback_it_goes_on_from_the_one_before(runs, killed, reference, damage):
    copy_of(killed, runs.output)
    damage(runs.output)
    resumed = runs.resume("--resume-fallback").succeed()
    assert resumed.started_at(3)
    assert "model_0000002.pth instead" in resumed.text
    assert differences(reference(), resumed.output) == []


def test_a_change_that_is_allowed_is_let_through(runs, killed, reference):
    copy_of(killed, runs.output)
    key = "MODEL.RETINANET.FOCAL_LOSS_GAMMA"
    changed = runs.resume("--allow-config-change", key, **{key: 1.0}).succeed()
    assert changed.started_at(6)
    assert f"{key}: 2.0 in the checkpoint, 1.0 now" in changed.text
    assert differences(reference(), changed.output) != []


def test_an_evaluation_of_a_damaged_checkpoint_is_refused(runs, killed):
    copy_of(killed, runs.output)
    flip_a_byte(runs.output)
    run = runs.start("--eval-only", MODEL__WEIGHTS=runs.output / LAST)
    assert run.wait() == 2
    assert f"{LAST} is damaged" in run.last_line
