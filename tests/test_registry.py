"""Redirection of a component's config keys when it serves a second detector."""

import pytest
from detectron2.config import CfgNode

from focal_plugin.checks import IllegalOptionError
from focal_plugin.registry import DENSE, ConfigScope, ConfigurableModule, build_named, configurable

from .each import each


class Part(ConfigurableModule):
    """Component with an option in a node, one beside it with a similar name, and one elsewhere."""

    config_keys = {"inner": "A.LOSS.INNER", "similar": "A.LOSS_SCALE", "foreign": "B.FOREIGN"}

    @configurable
    def __init__(self, *, inner: float = 1.0, similar: float = 2.0, foreign: float = 3.0) -> None:
        super().__init__()
        if inner < 0:
            raise IllegalOptionError("inner", f"must be >= 0, got {inner}")
        self.inner, self.similar, self.foreign = inner, similar, foreign

    def options(self):
        return self.inner, self.similar, self.foreign


MOVED = ConfigScope(
    moved={
        "A.LOSS": "C.LOSS",
        "A.LOSS.DEEP.NAME": "C.CHOICE",
        "A.LOSS.DEEP": "C.DEEP",
        "B.FOREIGN": "C.LOSS.NEAR",
    },
    fixed={"A.NUM": 1},
)


def make_cfg():
    cfg = CfgNode()
    cfg.A, cfg.B, cfg.C = CfgNode(), CfgNode(), CfgNode()
    cfg.A.LOSS, cfg.C.LOSS = CfgNode(), CfgNode()
    cfg.A.NUM = 80
    cfg.A.LOSS.NAME, cfg.A.LOSS.INNER, cfg.A.LOSS_SCALE, cfg.B.FOREIGN = "Part", 10.0, 20.0, 30.0
    cfg.C.LOSS.NAME, cfg.C.LOSS.INNER, cfg.C.LOSS.NEAR = "Part", 11.0, 31.0
    return cfg


@each(
    ("key", "expected"),
    [
        ("A.LOSS.INNER", "C.LOSS.INNER"),
        ("A.LOSS", "C.LOSS"),
        ("A.LOSS.DEEP.OTHER", "C.DEEP.OTHER"),
        ("A.LOSS.DEEP.NAME", "C.CHOICE"),
        ("A.LOSS.DEEP.NAME.LEAF", "C.CHOICE.LEAF"),
        ("B.FOREIGN", "C.LOSS.NEAR"),
    ],
)
def test_the_longest_node_that_has_moved_decides(key, expected):
    assert MOVED.key(key) == expected


@each("key", ["A.LOSS_SCALE", "A.LOSSES.INNER", "A", "A.NUM", "LOSS.INNER", "X.A.LOSS.INNER"])
def test_a_key_with_a_similar_name_does_not_move(key):
    assert MOVED.key(key) == key


def test_a_key_moves_only_once():
    chain = ConfigScope(moved={"A": "B", "B": "C"})
    assert chain.key("A.X") == "B.X"


def test_a_dense_detectors_keys_are_where_the_parts_say():
    assert DENSE.key("A.LOSS.INNER") == "A.LOSS.INNER"
    assert (
        Part(make_cfg()).options() == Part(make_cfg(), config_scope=DENSE).options() == (10, 20, 30)
    )


def test_the_options_of_a_part_are_read_at_its_place():
    assert Part(make_cfg(), config_scope=MOVED).options() == (11, 20, 31)


def test_a_fixed_value_overrides_its_key():
    cfg = make_cfg()
    assert MOVED.read(cfg, "A.NUM") == 1
    assert DENSE.read(cfg, "A.NUM") == 80
    del cfg.A["NUM"]
    assert MOVED.read(cfg, "A.NUM") == 1


def test_an_option_whose_key_is_none_keeps_the_default_of_the_constructor():
    cfg = make_cfg()
    cfg.C.LOSS.INNER = None
    assert Part(cfg, config_scope=MOVED).options() == (1, 20, 31)


@pytest.mark.parametrize("value", [0.0, False])
def test_an_option_whose_key_is_zero_is_zero(value):
    cfg = make_cfg()
    cfg.C.LOSS.INNER = value
    assert Part(cfg, config_scope=MOVED).options() == (0, 20, 31)


def test_a_fixed_none_keeps_the_default_of_the_constructor():
    assert Part(make_cfg(), config_scope=ConfigScope(fixed={"A.LOSS.INNER": None})).options() == (
        1,
        20,
        30,
    )


def test_an_illegal_option_is_an_error_that_names_the_key_of_its_place():
    cfg = make_cfg()
    cfg.C.LOSS.INNER = -1.0
    with pytest.raises(ValueError, match=r"^C\.LOSS\.INNER must be >= 0, got -1.0 \(with C\.LOSS"):
        build_named([("Part", Part)], "A.LOSS.NAME", cfg, config_scope=MOVED)
    assert build_named([("Part", Part)], "A.LOSS.NAME", cfg).inner == 10


def test_an_illegal_option_without_a_key_keeps_its_own_message():
    class Keyless:
        def __init__(self, cfg):
            raise IllegalOptionError("gamma", "must be >= 0, got -1")

    cfg = make_cfg()
    cfg.A.LOSS.NAME = "Keyless"
    with pytest.raises(IllegalOptionError, match=r"^gamma must be >= 0, got -1$"):
        build_named([("Keyless", Keyless)], "A.LOSS.NAME", cfg)


def test_an_unknown_name_is_an_error_that_names_the_key_of_its_place():
    cfg = make_cfg()
    cfg.C.LOSS.NAME = "Prat"
    with pytest.raises(KeyError, match=r"C\.LOSS\.NAME = 'Prat' is not one of Other, Part"):
        build_named([("Part", Part), ("Other", Part)], "A.LOSS.NAME", cfg, config_scope=MOVED)


def test_a_class_without_place_support_is_built():
    class Plain:
        def __init__(self, cfg, extra):
            self.extra = extra

    cfg = make_cfg()
    cfg.A.LOSS.NAME = "Plain"
    assert build_named([("Plain", Plain)], "A.LOSS.NAME", cfg, "shape").extra == "shape"
