"""Weights in every format that Detectron2 supports, read without running code."""

import hashlib
import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch

from focal_plugin.engine.checkpoints.file import CheckpointError
from focal_plugin.engine.checkpoints.weights import read_weights

ZOO = {"model": {"weight": np.arange(6, dtype="f4").reshape(2, 3)}, "__author__": "Somebody"}
ZOO_NAME = "detectron2://COCO-Detection/model_final.pkl"


def dump(folder, content=ZOO, name="model.pkl", protocol=2):
    (folder / name).write_bytes(pickle.dumps(content, protocol=protocol))
    return folder / name


def named_by_hash(folder, content=ZOO):
    """Write a file with the naming scheme of the model zoo."""
    digest = hashlib.md5(pickle.dumps(content, protocol=2)).hexdigest()
    return dump(folder, content, f"model_final_{digest[:6]}.pkl")


def read(file, given="", trusted=False):
    return read_weights(file, given=given or str(file), trust_pickle=trusted)


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_of_every_protocol_are_read(tmp_path, protocol):
    content = {
        "model": OrderedDict(
            f4=np.ones(3, "f4"),
            i8=np.arange(4).reshape(2, 2).T,
            bool=np.array([True]),
            half=np.ones((), "f2"),
            empty=np.ones((0, 3)),
        ),
        "__author__": "Somebody",
        "scale": np.float32(2),
    }
    got = read(dump(tmp_path, content, protocol=protocol), trusted=True)
    assert got["scale"] == 2
    for name, array in content["model"].items():
        assert got["model"][name].dtype == array.dtype
        assert np.array_equal(got["model"][name], array)


@pytest.mark.parametrize("core", ["core", "_core"])
def test_arrays_of_either_numpy_are_read(tmp_path, core):
    content = pickle.dumps(ZOO, protocol=2)
    for module in (b"numpy.core.multiarray", b"numpy._core.multiarray"):
        content = content.replace(module, f"numpy.{core}.multiarray".encode())
    (tmp_path / "model.pkl").write_bytes(content)
    got = read(tmp_path / "model.pkl", trusted=True)
    assert np.array_equal(got["model"]["weight"], ZOO["model"]["weight"])


def test_strings_and_arrays_of_python_2_are_read(tmp_path):
    # Output of Python 2 with protocol 2 for {"blobs": {"w": an int8 array of 200 and 1}}
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02i1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xff"
        b"J\xff\xff\xff\xffK\x00tb\x89U\x02\xc8\x01tb"
    )
    (tmp_path / "model.pkl").write_bytes(b"\x80\x02}U\x05blobs}U\x01w" + array + b"ss.")
    got = read(tmp_path / "model.pkl", trusted=True)
    assert got["model"]["w"].tolist() == [-56, 1]


def test_a_pickle_of_unknown_origin_requires_trust(tmp_path):
    file = dump(tmp_path)
    with pytest.raises(CheckpointError, match="--trust-pickle"):
        read(file)
    read(file, trusted=True)


@pytest.mark.parametrize("scheme", ["detectron2://", "catalog://"])
def test_the_model_zoo_needs_no_trust(tmp_path, scheme):
    read(dump(tmp_path), given=f"{scheme}COCO-Detection/model_final.pkl")


def test_a_name_with_the_right_hash_needs_no_trust(tmp_path):
    read(named_by_hash(tmp_path))


@pytest.mark.parametrize("trusted", [True, False])
@pytest.mark.parametrize("scheme", ["", "detectron2://COCO-Detection/"])
def test_a_name_with_another_hash_is_damage_whoever_trusts_it(tmp_path, trusted, scheme):
    file = named_by_hash(tmp_path)
    file.write_bytes(file.read_bytes() + b" ")
    actual = hashlib.md5(file.read_bytes()).hexdigest()[:6]
    with pytest.raises(CheckpointError, match=f"begins with {actual}, but its name says"):
        read(file, given=f"{scheme}{file.name}", trusted=trusted)


class Payload:
    """Object that creates a file when it is unpickled."""

    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("where", ["zoo", "hash", "trusted"])
def test_code_is_never_run_wherever_a_pickle_is_from(tmp_path, where, protocol):
    proof = tmp_path / "proof"
    content = {"model": {"weight": Payload(open, str(proof), "w")}, "__author__": "Somebody"}
    file = named_by_hash(tmp_path, content)
    if where != "hash":
        file = dump(tmp_path, content, protocol=protocol)
    given = ZOO_NAME if where == "zoo" else str(file)
    with pytest.raises(CheckpointError, match=r"names (io|_io|builtins|__builtin__)\.open"):
        read(file, given=given, trusted=where == "trusted")
    assert not proof.exists()


@pytest.mark.parametrize(
    "name",
    ["os system", "builtins eval", "numpy.testing runstring", "torch._utils _rebuild_tensor"],
)
def test_any_global_except_those_of_arrays_is_named(tmp_path, name):
    file = tmp_path / "model.pkl"
    file.write_bytes(b"c" + name.replace(" ", "\n").encode() + b"\n.")
    with pytest.raises(CheckpointError, match=name.replace(" ", r"\.")):
        read(file, trusted=True)


@pytest.mark.parametrize("content", [b"", b"no pickle", b"\x80\x02}", b"\x80\x02]."])
def test_an_invalid_pickle_of_weights_is_refused(tmp_path, content):
    (tmp_path / "model.pkl").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"is empty|not a pickle of weights"):
        read(tmp_path / "model.pkl", trusted=True)


def test_caffe2_files_lose_their_momenta_and_are_matched_by_name(tmp_path):
    arrays = {"conv_w": np.ones(1), "conv_w_momentum": np.ones(1)}
    for content in (arrays, {"blobs": arrays, "cfg": "text"}):
        got = read(dump(tmp_path, content), trusted=True)
        assert list(got["model"]) == ["conv_w"]
        assert (got["__author__"], got["matching_heuristics"]) == ("Caffe2", True)


def test_pycls_files_are_matched_by_name(tmp_path):
    weights = {"conv": torch.ones(1), "bn.num_batches_tracked": torch.ones(1)}
    torch.save({"model_state": weights}, tmp_path / "model.pyth")
    got = read(tmp_path / "model.pyth")
    assert list(got["model"]) == ["conv"]
    assert got["matching_heuristics"]
    torch.save({"model": weights}, tmp_path / "model.pyth")
    with pytest.raises(CheckpointError, match="no 'model_state'"):
        read(tmp_path / "model.pyth")


def test_a_bare_state_dict_is_a_model(tmp_path):
    torch.save({"weight": torch.ones(1)}, tmp_path / "model.pth")
    assert list(read(tmp_path / "model.pth")["model"]) == ["weight"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "it contains no weights"),
        ({"model": {}}, "it contains no weights"),
        ({"model": [torch.ones(1)]}, "it contains no weights"),
        ({"model": {"a": torch.ones(1), "b": 1.0}}, "b is a float, not a tensor"),
        ({"epoch": 3}, "epoch is a int, not a tensor"),
    ],
)
def test_a_dictionary_without_weights_is_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match=message):
        read(tmp_path / "model.pth")
