"""Losses and other components from outside of the package: found, checked, used, recorded."""

import json
import sys

import pytest
import torch
from detectron2.modeling import build_model

from focal_plugin import components, get_cfg
from focal_plugin.compare.plan.spec import load_spec
from focal_plugin.compare.running.run_one import Task, _command
from focal_plugin.components import ComponentImportError, import_components
from focal_plugin.engine.checkpoints.identity import run_identity
from focal_plugin.engine.command_line import argument_parser, setup
from focal_plugin.engine.hooks.fixed_anchors import dense_parts
from focal_plugin.engine.hooks.run_record import describe_environment
from focal_plugin.engine.refusals import endings_in_words, refusals_in_words
from focal_plugin.losses import (
    CLS_LOSS_REGISTRY,
    SigmoidCrossEntropyLoss,
    SigmoidFocalLoss,
    SmoothL1Loss,
    build_box_loss,
    build_cls_loss,
)
from focal_plugin.mining import TopKMiner, build_miner
from focal_plugin.modeling import config_scopes
from focal_plugin.modeling.balance import build_balance
from focal_plugin.modeling.normalizer import RPN_NORMALIZERS, build_normalizer
from focal_plugin.registry import DENSE, RegistrationError
from focal_plugin_commands import focal_compare, focal_plugin

from .conftest import ROOT
from .each import each
from .registrations import registrations_kept

HEAD = """
from dataclasses import dataclass
import torch
from torch import nn
from torch.nn import functional as F
from focal_plugin.losses import BOX_LOSS_REGISTRY, CLS_LOSS_REGISTRY, SigmoidFocalLoss
from focal_plugin.losses.elementwise import ElementwiseLoss
from focal_plugin.mining import MINER_REGISTRY, Miner, TopKMiner
from focal_plugin.modeling.balance import BALANCE_REGISTRY, Balance
from focal_plugin.modeling.normalizer import NORMALIZER_REGISTRY, Normalizer
from focal_plugin.ops import Formula, Terms
from focal_plugin.registry import configurable

def targets_of(logits, labels):
    return F.one_hot(labels, logits.shape[1] + 1)[:, :-1].float()
"""
PLAIN = """
@CLS_LOSS_REGISTRY.register()
class PlainLoss(nn.Module):
    config_keys = {"factor": "MODEL.FOCAL.CLS_LOSS.PLAIN_FACTOR"}
    def __init__(self, factor: float = 1.0):
        super().__init__()
        self.factor = factor
    def forward(self, logits, labels):
        targets = targets_of(logits, labels)
        return self.factor * F.binary_cross_entropy_with_logits(logits, targets, reduction="sum")
"""
ROWS = """
@CLS_LOSS_REGISTRY.register()
class RowLoss(nn.Module):
    def forward(self, logits, labels):
        targets = targets_of(logits, labels)
        return F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
"""
MASKED = """
@CLS_LOSS_REGISTRY.register()
class MaskedLoss(nn.Module):
    def forward(self, logits, labels):
        targets = torch.zeros_like(logits)
        found = labels < logits.shape[1]
        targets[found, labels[found]] = 1
        return F.binary_cross_entropy_with_logits(logits, targets, reduction="sum")
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with registrations_kept(tmp_path):
        yield tmp_path


def write(folder, text, name="outside_losses.py"):
    (folder / name).write_text(HEAD + text)
    return str(folder / name)


def load(folder, text):
    import_components([write(folder, text)])
    return sys.modules["outside_losses"]


def cfg_with(name, scope=DENSE, num_classes=3):
    cfg = get_cfg()
    node = cfg
    *nodes, leaf = scope.key("MODEL.FOCAL.CLS_LOSS.NAME").split(".")
    for part in nodes:
        node = node[part]
    node[leaf] = name
    cfg.MODEL.RETINANET.NUM_CLASSES = cfg.MODEL.ROI_HEADS.NUM_CLASSES = num_classes
    return cfg


def batch(num_classes=3):
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 40, num_classes, generator=generator)
    labels = torch.randint(-1, num_classes + 1, (2, 40), generator=generator)
    return logits, labels


@pytest.mark.parametrize("name", ["PlainLoss", "RowLoss", "MaskedLoss"])
@pytest.mark.parametrize("scope", [DENSE, config_scopes.RPN, config_scopes.ROI_HEADS])
def test_a_plain_module_is_a_loss_of_each_detector(folder, name, scope):
    load(folder, PLAIN + ROWS + MASKED)
    num_classes = 1 if scope is config_scopes.RPN else 3
    loss = build_cls_loss(cfg_with(name, scope), scope)
    logits, labels = batch(num_classes)
    ours, theirs = (logits.clone().requires_grad_() for _ in range(2))
    value, expected = loss(ours, labels), SigmoidCrossEntropyLoss()(theirs, labels)
    torch.testing.assert_close(value, expected)
    value.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("name", ["PlainLoss", "RowLoss"])
def test_a_plain_module_gives_the_loss_of_each_anchor(folder, name):
    load(folder, PLAIN + ROWS)
    loss, (logits, labels) = build_cls_loss(cfg_with(name)), batch()
    assert loss.has_rows
    expected = SigmoidCrossEntropyLoss().per_anchor(logits, labels)
    torch.testing.assert_close(loss.per_anchor(logits, labels), expected)


def test_a_plain_module_sees_no_ignored_anchor_and_no_empty_input(folder):
    load(folder, PLAIN)
    loss, (logits, labels) = build_cls_loss(cfg_with("PlainLoss")), batch()
    expected = loss(logits, labels)
    logits[labels == -1] = float("nan")
    torch.testing.assert_close(loss(logits, labels), expected)
    for shape in ((0,), (2, 5)):
        empty = torch.full((*shape, 3), float("nan"), requires_grad=True)
        value = loss(empty, torch.full(shape, -1))
        value.backward()
        assert value == 0
        assert (empty.grad == 0).all()


@pytest.mark.parametrize("scope", [DENSE, config_scopes.RPN, config_scopes.ROI_HEADS])
def test_the_key_of_an_option_exists_with_the_default_of_its_constructor(folder, scope):
    load(folder, PLAIN)
    cfg = cfg_with("PlainLoss", scope)
    key = scope.key("MODEL.FOCAL.CLS_LOSS.PLAIN_FACTOR")
    assert scope.read(cfg, "MODEL.FOCAL.CLS_LOSS.PLAIN_FACTOR") == 1.0
    cfg.merge_from_list([key, "3.0"])
    assert build_cls_loss(cfg, scope).module.factor == 3.0


def test_a_loss_known_as_a_sum_has_diagnostics_but_no_mining(folder):
    load(folder, MASKED)
    cfg = cfg_with("MaskedLoss")
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.DEVICE = "FocalRetinaNet", "cpu"
    cfg.MODEL.BACKBONE.NAME = "build_small_resnet_fpn_backbone"
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res3", "res4", "res5"]
    cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4", "res5"]
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = [0.0] * 3, [1.0] * 3
    model = build_model(cfg)
    assert not model.cls_loss.has_rows
    assert dense_parts(model) == {"retinanet": model}
    cfg.MODEL.FOCAL.MINING.NAME = "TopKMiner"
    with pytest.raises(ValueError, match=r"^MaskedLoss returns only a sum, .* shape \(V,\)$"):
        build_model(cfg)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return logits.square().mean()", "is [-\\d.]+, but the sum .* own_normalizer"),
        ("return F.cross_entropy(logits, labels.clamp(max=2))", "return a sum, not a mean"),
        ("return logits.detach().square().sum()", "without a gradient"),
        ("return logits.square().sum(0)", r"one loss for each of 4 rows, got shape \(3,\)"),
        ("return 1.0", "got float"),
        ("return logits.sum() * float('nan')", "returns NaN or infinity for usual inputs"),
        ("return (logits / 0).square().sum()", "returns NaN or infinity for usual inputs"),
        ("return F.one_hot(labels, 3).sub(logits).sum()", r"fails on tensors \(4, 3\) and \(4,\)"),
    ],
)
def test_a_plain_module_with_another_result_is_refused_when_it_is_built(folder, body, message):
    load(
        folder,
        f"""
@CLS_LOSS_REGISTRY.register()
class WrongLoss(nn.Module):
    def forward(self, logits, labels):
        {body}
""",
    )
    with pytest.raises(ValueError, match=f"^WrongLoss.*{message}") as caught:
        build_cls_loss(cfg_with("WrongLoss"))
    assert "\n" not in str(caught.value)


def test_a_mean_is_accepted_where_the_module_says_that_it_is_normalized(folder):
    load(
        folder,
        """
@CLS_LOSS_REGISTRY.register()
class MeanLoss(nn.Module):
    own_normalizer, softmax = True, True
    def forward(self, logits, labels):
        return F.cross_entropy(logits, labels)
""",
    )
    loss = build_cls_loss(cfg_with("MeanLoss"))
    assert (loss.own_normalizer, loss.softmax) == (True, True)
    logits, labels = batch(num_classes=4)
    labels = labels.clamp(max=3)
    expected = torch.nn.functional.cross_entropy(logits[labels >= 0], labels[labels >= 0])
    torch.testing.assert_close(loss(logits, labels), expected)


def test_other_parts_come_from_outside_too(folder):
    load(
        folder,
        """
@BOX_LOSS_REGISTRY.register()
class PlainBox(nn.Module):
    def forward(self, pred, target):
        return F.smooth_l1_loss(pred, target, reduction="sum")

@MINER_REGISTRY.register()
class MyMiner(TopKMiner):
    pass

@BALANCE_REGISTRY.register()
class SwappedBalance(Balance):
    def balanced(self, loss_cls, loss_box, shared, log_as):
        return loss_box, loss_cls

@NORMALIZER_REGISTRY.register()
class SevenNormalizer(Normalizer):
    config_keys = {"seven": "MODEL.FOCAL.NORMALIZER.SEVEN"}
    @configurable
    def __init__(self, *, seven: float = 7.0):
        super().__init__()
        self.seven = seven
    def divisors(self, num_pos):
        return torch.full((1,), self.seven)
""",
    )
    cfg = get_cfg()
    focal = cfg.MODEL.FOCAL
    focal.BOX_LOSS.NAME, focal.MINING.NAME = "PlainBox", "MyMiner"
    focal.NORMALIZER.NAME = focal.RPN.NORMALIZER = "SevenNormalizer"
    pred, target = torch.randn(9, 4), torch.randn(9, 4)
    box_loss = build_box_loss(cfg)
    expected = SmoothL1Loss(beta=1.0)
    torch.testing.assert_close(box_loss(pred, target), expected(pred, target))
    torch.testing.assert_close(box_loss.per_box(pred, target), expected.per_box(pred, target))
    assert box_loss(pred[:0], target[:0]) == 0
    assert isinstance(build_miner(cfg), TopKMiner)
    assert build_normalizer(cfg)(torch.tensor([1, 2])) == 7
    focal.BALANCE.NAME = focal.RPN.BALANCE.NAME = "SwappedBalance"
    assert build_balance(cfg)(1.0, 2.0) == (2.0, 1.0)
    assert build_balance(cfg, config_scopes.RPN)(1.0, 2.0) == (2.0, 1.0)
    rpn = build_normalizer(cfg, RPN_NORMALIZERS, config_scopes.RPN)
    assert rpn(torch.tensor([1, 2])) == 7


POWER = """
@dataclass(frozen=True)
class Power(Formula):
    kernel = {kernel!r}
    power: float = 2.0
    parameters = (2.0, 0.0)
    def value(self, at):
        return at.q**self.power
    def slope(self, at):
        return {slope}

@CLS_LOSS_REGISTRY.register()
class PowerLoss(ElementwiseLoss):
    config_keys = {{"power": "MODEL.FOCAL.CLS_LOSS.POWER"}}
    @configurable
    def __init__(self, *, power: float = 2.0):
        super().__init__()
        self.power = power
    def terms(self, logits):
        return Terms(Power(self.power), Power(self.power))
"""
RIGHT_SLOPE = "-self.power * at.q**self.power * at.p"


@pytest.mark.parametrize(
    "kernel", ["hinge", "focal", "cross_entropy", "poly_focal", "varifocal", "hinj"]
)
def test_a_formula_whose_kernel_computes_another_loss_is_refused(folder, kernel):
    text = POWER.format(kernel=kernel, slope=RIGHT_SLOPE)
    unusable = {
        "hinj": "fails: there is no formula hinj",
        "varifocal": "fails: varifocal is a formula for positives",
    }
    fails = unusable.get(kernel, r"is \S+ at x_t = .*, but")
    with pytest.raises(
        ComponentImportError, match=rf"PowerLoss of outside_losses: Power: .*'{kernel}'.* {fails}"
    ) as caught:
        load(folder, text)
    assert "\n" not in str(caught.value)
    assert "PowerLoss" not in CLS_LOSS_REGISTRY


@pytest.mark.parametrize(
    "slope", ["-self.power * at.q**self.power", "at.q", "torch.zeros_like(at.p)", "at.p / 0"]
)
def test_a_slope_that_is_not_the_derivative_of_the_value_is_refused(folder, slope):
    message = r"Power: slope is \S+ at x_t = \S+, but the derivative of value is -\d"
    with pytest.raises(ComponentImportError, match=message):
        load(folder, POWER.format(kernel=None, slope=slope))


def test_a_slope_that_is_wrong_at_other_options_is_refused_when_the_loss_is_built(folder):
    load(folder, POWER.format(kernel=None, slope="-2 * at.q**2 * at.p"))
    cfg = cfg_with("PowerLoss")
    build_cls_loss(cfg)
    cfg.MODEL.FOCAL.CLS_LOSS.POWER = 3.0
    with pytest.raises(ValueError, match="Power: slope is"):
        build_cls_loss(cfg)


def test_a_right_formula_is_summed_as_it_says(folder):
    load(folder, POWER.format(kernel=None, slope=RIGHT_SLOPE))
    logits, labels = batch()
    target = torch.nn.functional.one_hot(labels.clamp(min=0), 4)[..., :3].double()
    expected = (logits.double().sigmoid() - target).square()[labels >= 0].sum()
    value = build_cls_loss(cfg_with("PowerLoss"))(logits, labels)
    torch.testing.assert_close(value, expected.float())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            PLAIN.replace("PlainLoss", "SigmoidFocalLoss"),
            "CLS_LOSS 'SigmoidFocalLoss' of outside_losses has the name of that of "
            "focal_plugin.losses.sigmoid_focal, which is built in",
        ),
        (PLAIN + PLAIN, "'PlainLoss' of outside_losses has the name of that of outside_losses"),
        (
            "MINER_REGISTRY.register(type('OHEMMiner', (TopKMiner,), {}))",
            "MINER 'OHEMMiner' of .* focal_plugin.mining.ohem, which is built in",
        ),
        ("CLS_LOSS_REGISTRY.register(targets_of)", "targets_of .* must be a subclass of Class"),
        ("MINER_REGISTRY.register(nn.ReLU)", "ReLU .* must be a subclass of Miner"),
        ("NORMALIZER_REGISTRY.register(nn.ReLU)", "ReLU .* must be a subclass of Normalizer"),
        ("CLS_LOSS_REGISTRY.register(nn.ReLU)", "forward must take two tensors, logits and labels"),
        ("BOX_LOSS_REGISTRY.register(nn.ReLU)", "forward must take two tensors, pred and target"),
        (
            "@CLS_LOSS_REGISTRY.register()\nclass A(SigmoidFocalLoss):\n"
            "    def __init__(self):\n        super().__init__()",
            "A of outside_losses: decorate its __init__",
        ),
    ],
)
def test_what_cannot_be_registered_is_one_line(folder, text, message):
    before = CLS_LOSS_REGISTRY.get("SigmoidFocalLoss")
    with pytest.raises(ComponentImportError, match=message) as caught:
        load(folder, text)
    assert "\n" not in str(caught.value)
    assert CLS_LOSS_REGISTRY.get("SigmoidFocalLoss") is before is SigmoidFocalLoss


def test_a_name_of_two_files_is_one_line_with_both_modules(folder):
    load(folder, PLAIN)
    with pytest.raises(
        ComponentImportError, match="'PlainLoss' of other_losses has the name of that of outside_"
    ):
        import_components([write(folder, PLAIN, "other_losses.py")])


def test_an_option_without_a_default_is_refused_when_its_key_is_added(folder):
    load(folder, PLAIN.replace("factor: float = 1.0", "factor"))
    with pytest.raises(RegistrationError, match="config_keys of PlainLoss: 'factor' has no def"):
        get_cfg()


@pytest.mark.parametrize(
    ("key", "default", "problem"),
    [
        ("MODEL.RETINANET", "1.0", "MODEL.RETINANET must be a number, text or a list"),
        ("MODEL.FOCAL.CLS_LOSS", "1.0", "MODEL.FOCAL.CLS_LOSS must be a number, text or a list"),
        ("MODEL.DEVICE.NAME", "1.0", "no key can be MODEL.DEVICE.NAME"),
        ("MODEL.FOCAL.CLS_LOSS.TABLE", "{1: 2}", "TABLE must be a number, text or a list"),
    ],
)
def test_an_option_that_no_key_can_hold_is_refused(folder, key, default, problem):
    load(
        folder,
        f"""
@CLS_LOSS_REGISTRY.register()
class KeyedLoss(nn.Module):
    config_keys = {{"factor": "{key}"}}

    def __init__(self, factor={default}):
        super().__init__()

    def forward(self, logits, labels):
        return logits.square().sum()
""",
    )
    with pytest.raises(RegistrationError, match=f"^config_keys of KeyedLoss: .*{problem}"):
        get_cfg()


@each(
    ("file", "text", "message"),
    [
        ("broken.py", "def f(:", r"cannot import \S+broken.py: SyntaxError: .*line 1"),
        ("raises.py", "1 / 0", r"ZeroDivisionError: division by zero \(\S+raises.py, line 1\)"),
        ("exits.py", "import sys; sys.exit(3)", "SystemExit: 3"),
        ("needs.py", "import no_such_package", "No module named 'no_such_package'"),
        ("json.py", "", r"the name json is that of .*/json/__init__.py; rename it"),
        ("torch.py", "", "the name torch is that of "),
        ("yaml.py", "", "the name yaml is that of "),
    ],
)
def test_a_file_that_cannot_be_imported_is_one_line(folder, file, text, message):
    (folder / file).write_text(text)
    with pytest.raises(ComponentImportError, match=message) as caught:
        import_components([str(folder / file)])
    assert "\n" not in str(caught.value)


@each("name", ["no_such_package.losses", "no_such.py", "a b", "", "-x", "torch.no_such"])
def test_a_module_that_does_not_exist_is_exit_code_2_of_every_command(folder, name, capsys):
    spec = folder / "spec.yaml"
    spec.write_text(f"base: Shapes-Detection/retinanet_small.yaml\nimports: [{name!r}]\n")
    spec.write_text(spec.read_text() + "arms: [fl]\nseeds: 1\n")
    argument = f"--import={name}"
    assert focal_compare(["explain", argument]) == 2
    assert focal_compare(["run", str(spec), "--dry-run"]) == 2
    assert focal_plugin(["check-data", argument, "a.json:images"]) == 2
    with pytest.raises(SystemExit) as caught, endings_in_words(), refusals_in_words():
        setup(argument_parser().parse_args([argument]))
    assert caught.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    assert all(f"cannot import {name}" in line or "no_such.py" in line for line in lines)


def test_a_module_of_the_working_directory_is_found_and_imported_once(folder, monkeypatch):
    package = folder / "outside_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "losses.py").write_text(HEAD + PLAIN)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(folder))])
    import_components(["outside_package.losses", "outside_package.losses"])
    import_components(["outside_package.losses"])
    assert "PlainLoss" in CLS_LOSS_REGISTRY
    assert components.imported[-1] == "outside_package.losses"


def test_a_file_finds_its_neighbor_and_the_same_name_elsewhere_is_refused(folder):
    (folder / "neighbor_of_it.py").write_text("VALUE = 3")
    file = folder / "with_neighbor.py"
    file.write_text("from neighbor_of_it import VALUE")
    import_components([str(file)])
    assert sys.modules["with_neighbor"].VALUE == 3
    (folder / "other").mkdir()
    other = folder / "other/with_neighbor.py"
    other.write_text("")
    with pytest.raises(ComponentImportError, match=f"is that of {file}; rename it"):
        import_components([str(other)])


def distribution(folder, name, module, text):
    (folder / f"{module}.py").write_text(text)
    info = folder / f"{name}-1.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\n")
    (info / "entry_points.txt").write_text(f"[focal_plugin.components]\nlosses = {module}\n")


def test_an_entry_point_is_loaded_and_a_broken_one_is_named_in_a_line(folder, monkeypatch, caplog):
    distribution(folder, "good-dist", "good_module_of_it", HEAD + PLAIN)
    broken = {
        "no-import": ("broken_module_a", "import no_such_package", "No module named 'no_such_"),
        "taken": (
            "broken_module_b",
            HEAD + PLAIN.replace("PlainLoss", "SigmoidFocalLoss"),
            "RegistrationError: CLS_LOSS 'SigmoidFocalLoss' of broken_module_b has the name",
        ),
        "stops": ("broken_module_c", "raise SystemExit('two\\nlines')", "SystemExit: two lines"),
    }
    for name, (module, text, _) in broken.items():
        distribution(folder, name, module, text)
    monkeypatch.syspath_prepend(str(folder))
    components.load_entry_points()
    assert "PlainLoss" in CLS_LOSS_REGISTRY
    assert components.imported[-1] == "good_module_of_it of good-dist 1.5"
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 3
    for name, (module, _, reason) in broken.items():
        (message,) = (m for m in messages if f"losses = {module} of {name} 1.5" in m)
        assert f"cannot be imported: {reason}" in message.replace("ModuleNotFoundError: ", "")
        assert "\n" not in message


SPEC = """
base: Shapes-Detection/retinanet_small.yaml
imports: [outside_losses.py]
arms:
  FL: fl
  plain: [MODEL.FOCAL.CLS_LOSS.NAME, PlainLoss]
  plain 2: [MODEL.FOCAL.CLS_LOSS.NAME, PlainLoss, MODEL.FOCAL.CLS_LOSS.PLAIN_FACTOR, 2.0]
seeds: 1
"""


def test_the_imports_of_a_spec_travel_with_each_run(folder):
    file = write(folder, PLAIN)
    (folder / "spec.yaml").write_text(SPEC)
    runs = load_spec(folder / "spec.yaml").runs
    assert [run.imports for run in runs] == [(file,)] * 3
    command = _command(Task(runs[1], folder / "run", folder))
    args = argument_parser().parse_args(command[command.index("--resume") :])
    assert args.imports == [file]
    assert args.resume


def test_an_edited_source_changes_the_runs_that_use_it_and_no_others(folder):
    file = write(folder, PLAIN)
    (folder / "spec.yaml").write_text(SPEC)
    before = [run.config_hash for run in load_spec(folder / "spec.yaml").runs]
    with open(file, "a") as source:
        source.write("# edited\n")
    after = [run.config_hash for run in load_spec(folder / "spec.yaml").runs]
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False, False]


@each("imports", ["losses.py", "{a: b}", "[1]", "[[a.py]]", "null"])
def test_imports_of_another_form_are_refused(folder, imports):
    (folder / "spec.yaml").write_text(
        f"base: Shapes-Detection/retinanet_small.yaml\narms: [fl]\nseeds: 1\nimports: {imports}\n"
    )
    with pytest.raises(ValueError, match=r"imports must be a list of modules or \.py files, got"):
        load_spec(folder / "spec.yaml")


def test_the_source_of_a_loss_is_part_of_a_runs_record_and_of_its_identity(folder):
    file = write(folder, PLAIN + ROWS)
    import_components([file])
    cfg = cfg_with("PlainLoss")
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ()
    key = "CLS_LOSS PlainLoss of outside_losses"
    record = json.loads(json.dumps(describe_environment(cfg)))
    assert record["imports"][-1] == file
    assert list(record["components"]) == [key]
    digest = record["components"][key]
    assert run_identity(cfg)[f"{key}, sha256"] == digest
    with open(file, "a") as source:
        source.write("# edited\n")
    assert run_identity(cfg)[f"{key}, sha256"] != digest
    assert not any("outside_losses" in key for key in run_identity(cfg_with("SigmoidFocalLoss")))


def test_explain_draws_a_loss_of_the_example(folder):
    example = ROOT / "examples/my_losses"
    losses = ["SquaredErrorLoss:factor=2", "SigmoidPowerLoss:power=3"]
    with registrations_kept(example):
        assert focal_compare(["explain", "--import", f"{example}/my_losses.py", *losses]) == 0
    rows = [line.split(",") for line in (folder / "losses.csv").read_text().splitlines()]
    values = {(name, side, x_t): float(loss) for name, side, x_t, loss, _ in rows[1:]}
    assert values["SquaredErrorLoss:factor=2", "positive", "0"] == pytest.approx(0.5)
    assert values["SigmoidPowerLoss:power=3", "negative", "0"] == pytest.approx(0.125)
