import json
import subprocess
import sys
from dataclasses import fields, replace

import numpy as np
import pytest

from focal_plugin.diagnostics import snapshot as module
from focal_plugin.diagnostics.snapshot import Snapshot, read_snapshot, write_snapshot


def snapshot(**changes):
    """Return a snapshot whose fields have different values of their types."""
    values = {}
    for i, field in enumerate(fields(Snapshot)):
        array = np.arange(i, i + 3, dtype=np.float64)
        values[field.name] = {"int": i, "float": i + 0.5, "str": f"<ä{i}>"}.get(field.type, array)
    values["levels"] = np.array(["p3", "p4", "p5"])
    return replace(Snapshot(**values), **changes)


def test_a_snapshot_is_read_as_it_was_written(tmp_path):
    file = tmp_path / "missing" / "start_rpn.npz"
    write_snapshot(file, snapshot())
    again = read_snapshot(file)
    for field in fields(Snapshot):
        value, expected = getattr(again, field.name), getattr(snapshot(), field.name)
        assert type(value) is type(expected), field.name
        assert np.array_equal(value, expected), field.name
    assert list(file.parent.iterdir()) == [file]


def test_numbers_keep_their_bits(tmp_path):
    file = tmp_path / "a.npz"
    values = {"loss_pos": 0.1 + 0.2, "loss_neg": float("inf"), "divisor": 5e-324, "num_neg": 2**62}
    write_snapshot(file, snapshot(**values))
    again = read_snapshot(file)
    assert {name: getattr(again, name) for name in values} == values
    write_snapshot(file, snapshot(box_loss=float("nan"), num_pos=np.int64(3)))
    again = read_snapshot(file)
    assert np.isnan(again.box_loss)
    assert type(again.num_pos) is int


def test_a_file_of_an_earlier_version_has_an_entry_for_each_field(tmp_path):
    file, expected = tmp_path / "old.npz", snapshot()
    np.savez(file, **{field.name: getattr(expected, field.name) for field in fields(Snapshot)})
    again = read_snapshot(file)
    for field in fields(Snapshot):
        value = getattr(again, field.name)
        assert type(value) is type(getattr(expected, field.name)), field.name
        assert np.array_equal(value, getattr(expected, field.name)), field.name


@pytest.mark.parametrize("text", ["{", "[1]", '{"iteration": "many"}', '{"iteration": [1]}', "3"])
def test_broken_scalars_are_named(tmp_path, text):
    file = tmp_path / "broken.npz"
    write_snapshot(file, snapshot())
    with np.load(file) as arrays:
        content = dict(arrays)
    if "iteration" in text:
        text = json.dumps(json.loads(str(content["scalars"])) | json.loads(text))
    np.savez(file, **{**content, "scalars": text})
    with pytest.raises(ValueError, match=r"broken\.npz is not a snapshot"):
        read_snapshot(file)


def test_file_holds_no_pickle(tmp_path):
    write_snapshot(tmp_path / "a.npz", snapshot())
    with np.load(tmp_path / "a.npz", allow_pickle=False) as arrays:
        assert all(arrays[name].dtype.kind in "ifU" for name in arrays.files)


def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    file = tmp_path / "a.npz"
    write_snapshot(file, snapshot(iteration=1))

    def fill_the_disk(stream, **arrays):
        stream.write(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(np, "savez_compressed", fill_the_disk)
    with pytest.raises(OSError, match="no space"):
        write_snapshot(file, snapshot(iteration=2))
    assert read_snapshot(file).iteration == 1
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("content", [b"", b"no archive at all", b"PK\x03\x04 cut off"])
def test_broken_file_is_named(tmp_path, content):
    file = tmp_path / "broken.npz"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"broken\.npz is not a snapshot"):
        read_snapshot(file)


def test_pickle_is_refused(tmp_path):
    file = tmp_path / "evil.npz"
    np.savez(file, iteration=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match=r"evil\.npz is not a snapshot"):
        read_snapshot(file)


def test_other_fields_are_named(tmp_path):
    file = tmp_path / "old.npz"
    np.savez(file, iteration=np.array(1))
    with pytest.raises(ValueError, match=r"old\.npz .* anchors_digest"):
        read_snapshot(file)


def test_module_can_be_read_where_there_is_no_torch():
    alone = (
        "import importlib.util, sys;"
        f"spec = importlib.util.spec_from_file_location('alone', {module.__file__!r});"
        "alone = importlib.util.module_from_spec(spec); sys.modules['alone'] = alone;"
        "spec.loader.exec_module(alone); print('torch' in sys.modules)"
    )
    process = subprocess.run([sys.executable, "-c", alone], capture_output=True, text=True)
    assert process.stdout.strip() == "False", process.stderr
