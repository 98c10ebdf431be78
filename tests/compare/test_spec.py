import pytest

from focal_plugin.compare.spec import load_spec

from ..conftest import ROOT

SHAPES = ROOT / "configs" / "Shapes-Detection"


@pytest.fixture
def write(tmp_path):
    def write(text):
        file = tmp_path / "spec.yaml"
        file.write_text(text)
        return file

    return write


def arms(*names):
    return "arms: {" + ", ".join(f"{n}: {SHAPES}/retinanet_small_{n}.yaml" for n in names) + "}\n"


def test_every_arm_meets_every_seed_in_a_folder_of_its_own(write, tmp_path):
    runs = load_spec(write(arms("ce", "fl") + "seeds: [1, 2]"), tmp_path / "out")
    assert [run.name for run in runs] == ["ce seed 1", "fl seed 1", "ce seed 2", "fl seed 2"]
    assert len({run.folder for run in runs}) == 4
    cfg = runs[3].resolved_cfg()
    assert (2, str(runs[3].folder)) == (cfg.SEED, cfg.OUTPUT_DIR)


def test_opts_are_shared_by_all_arms(write, tmp_path):
    spec = write(arms("ce", "fl") + "seeds: [1]\nopts: [SOLVER.MAX_ITER, 7]")
    assert {run.resolved_cfg().SOLVER.MAX_ITER for run in load_spec(spec, tmp_path)} == {7}


def test_the_fingerprint_changes_with_a_key_and_not_with_the_folder(write, tmp_path):
    text = arms("fl") + "seeds: [1]\n"
    (here,) = load_spec(write(text), tmp_path / "a")
    (there,) = load_spec(write(text), tmp_path / "b")
    (other,) = load_spec(write(text + "opts: [SOLVER.BASE_LR, 0.5]"), tmp_path / "a")
    assert here.fingerprint() == there.fingerprint() != other.fingerprint()


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("[]", ValueError, "arms and seeds"),
        ("arms: {}\nseeds: [1]", ValueError, "arms"),
        ("arms: {a: b.yaml}\nseeds: [1]\nsede: 2", ValueError, "arms and seeds"),
        ("arms: {../x: b.yaml}\nseeds: [1]", ValueError, "'../x'"),
        ("arms: {a: [1]}\nseeds: [1]", ValueError, "config file"),
        ("arms: {a: b.yaml}\nseeds: []", ValueError, "seeds"),
        ("arms: {a: b.yaml}\nseeds: [1, 1]", ValueError, "twice"),
        ("arms: {a: b.yaml}\nseeds: [x]", ValueError, "integers"),
        ("arms: {a: b.yaml}\nseeds: [1]\nopts:", ValueError, "opts"),
        ("arms: {a: b.yaml}\nseeds: [1]\nopts: SOLVER.MAX_ITER 5", ValueError, "opts"),
        ("arms: {a: b.yaml}\nseeds: [1]\nopts: [SOLVER.MAX_ITER]", ValueError, "opts"),
        ("arms: {a: b.yaml\nseeds: [1]", ValueError, "spec.yaml is not safe YAML"),
        ("arms: {a: b.yaml}\nseeds: [1]", FileNotFoundError, "b.yaml"),
    ],
)
def test_another_form_is_an_error_that_says_what_is_wrong(write, tmp_path, text, error, message):
    with pytest.raises(error, match=message):
        load_spec(write(text), tmp_path)


def test_a_typo_in_a_key_shows_before_anything_runs(write, tmp_path):
    spec = write(arms("fl") + "seeds: [1]\nopts: [SOLVER.MAX_ITERS, 7]")
    with pytest.raises(KeyError, match=r"did you mean SOLVER\.MAX_ITER\?"):
        load_spec(spec, tmp_path)


def test_an_arm_must_be_evaluated_on_one_data_set(write, tmp_path):
    spec = write(arms("fl") + 'seeds: [1]\nopts: [DATASETS.TEST, "()"]')
    with pytest.raises(ValueError, match=r"DATASETS\.TEST must name one data set"):
        load_spec(spec, tmp_path)


def test_a_spec_is_data_and_runs_no_code(write, tmp_path):
    with pytest.raises(ValueError, match="constructor"):
        load_spec(write("arms: !!python/object/apply:os.getcwd []\nseeds: [1]"), tmp_path)
