"""One rule for ids: what the check accepts is trained, evaluated and reported as it was meant."""

import json

import pytest

from focal_plugin.data.coco_ids import canonical, is_id, kind_of, wrong_ids

from ..tools import load_tool

fuzz_coco = load_tool("fuzz_coco")
coco_mutations = load_tool("coco_mutations")

INFINITE, NAN = float("inf"), float("nan")


@pytest.mark.parametrize(
    "value", [0, 1, -1, 2**63 - 1, 1.0, -0.0, float(2**53), "1", "img_1", "ä b", "x" * 200]
)
def test_numbers_and_texts_are_ids(value):
    assert is_id(value)
    assert kind_of(value) == ("text" if isinstance(value, str) else "number")
    assert canonical(value) == value


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, False, 1.5, NAN, INFINITE, -INFINITE, 2**63, -(2**63), 10**400, 1e17),
        *("", "a\0", "a\nb", "\ud800", "x" * 201, [], [1], {}, {"id": 1}),
    ],
    ids=lambda value: f"{value!r:.20}",
)
def test_other_values_are_no_ids(value):
    assert not is_id(value)
    assert kind_of(value) is None
    assert wrong_ids([1, 2, value]) == [2]
    assert wrong_ids([value]) == [0]


@pytest.mark.parametrize(
    ("ids", "wrong"),
    [
        ([], []),
        ([3, 1, 2], []),
        ([1.0, 2, 3.0], []),
        (["b", "a"], []),
        ([1, "2", 3], [1]),
        (["1", 2, "3"], [1]),
        ([2**60, 2**60 + 1], []),
        ([1.0, 2**60], [1]),  # numpy would round the second
        ([1.5, 2**60], [0]),
        ([True, 2], [0]),
    ],
)
def test_the_ids_of_one_list_can_be_sorted_and_stored_in_one_array(ids, wrong):
    assert wrong_ids(ids) == wrong


def test_equal_ids_have_one_canonical_form():
    assert type(canonical(1.0)) is int


# In a run


REFERENCES = {"images": "image_id", "categories": "category_id", "annotations": "id"}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return tmp_path_factory.mktemp("images")


@pytest.fixture
def judge(tmp_path, images):
    """Check, load, evaluate and report a valid file whose ids a function changes."""
    valid = coco_mutations.valid_dataset(images)

    def judge(change, of, *, references=True, own=True):
        content = json.loads(json.dumps(valid))
        for entry in content[of] if own else ():
            entry["id"] = change(entry["id"])
        for entry in content["annotations"] if references and of != "annotations" else ():
            entry[REFERENCES[of]] = change(entry[REFERENCES[of]])
        file = tmp_path / "ids.json"
        file.write_text(json.dumps(content))
        return fuzz_coco.judge(file, images)

    return judge


WORKING = {
    "text": lambda i: f"img_{i}",
    "digits": str,
    "floats": float,
    "some floats": lambda i: float(i) if i % 2 else i,
    "from 0": lambda i: i - 1,
    "negative": lambda i: -i,
    "beyond float64": lambda i: 2**53 + i,
    "63 bits": lambda i: 2**63 - 20 + i,
}
REFUSED = {
    "null": lambda i: None if i == 1 else i,
    "truth values": lambda i: i == 1,
    "fraction": lambda i: i + 0.5,
    "64 bits": lambda i: 2**63 + i,
    "1,300 bits": lambda i: 10**400 + i,
    "infinite": lambda i: INFINITE if i == 1 else i,
    "NaN": lambda i: NAN if i == 1 else i,
    "lists": lambda i: [i],
    "duplicates": lambda i: (i + 1) // 2,
    "floats equal to integers": lambda i: [1, 1.0, 2, 2.0, 3, 3.0, 4, 4.0, 5, 5.0, 6, 6.0][i - 1],
    "mixed": lambda i: str(i) if i % 2 else i,
    "large beside a float": lambda i: 2**60 + i if i > 1 else 1.0,
    "long text": lambda i: "x" * 300 + str(i),
    "text with NUL": lambda i: "a" + "\0" * i,
}


@pytest.mark.parametrize("of", REFERENCES)
@pytest.mark.parametrize("name", WORKING)
def test_legal_ids_give_the_result_of_plain_ones(judge, of, name):
    verdict = judge(WORKING[name], of)
    assert (verdict.kind, verdict.detail) == ("clean", verdict.detail)


@pytest.mark.parametrize("of", REFERENCES)
@pytest.mark.parametrize("name", REFUSED)
def test_illegal_ids_are_refused_before_the_run(judge, of, name):
    assert judge(REFUSED[name], of).kind == "refused"


@pytest.mark.parametrize("of", ["images", "categories"])
def test_a_reference_may_be_another_number_of_equal_value(judge, of):
    assert judge(float, of, own=False).kind == "clean"
    assert judge(float, of, references=False).kind == "clean"


@pytest.mark.parametrize("of", ["images", "categories"])
def test_a_reference_of_another_type_is_refused(judge, of):
    assert judge(str, of, own=False).kind == "refused"
    assert judge(str, of, references=False).kind == "refused"
