import pytest
import torch

from focal_plugin import get_cfg
from focal_plugin.modeling import config_scopes
from focal_plugin.modeling.normalizer import (
    NORMALIZERS,
    RPN_NORMALIZERS,
    BatchNormalizer,
    EMANormalizer,
    FixedNormalizer,
    MeanNormalizer,
    PerImageNormalizer,
    SampleSizeNormalizer,
    build_normalizer,
)

NUM_POS = torch.tensor([50, 0, 16])


def test_ema_starts_at_100_and_moves_a_tenth_of_the_way():
    normalizer = EMANormalizer()
    torch.testing.assert_close(normalizer(NUM_POS), torch.tensor([96.6]))
    torch.testing.assert_close(normalizer(NUM_POS), torch.tensor([0.9 * 96.6 + 6.6]))


def test_ema_counts_a_batch_without_positives_as_one():
    torch.testing.assert_close(EMANormalizer()(torch.zeros(2).long()), torch.tensor([90.1]))


def test_ema_divisor_does_not_change_when_the_mean_moves_on():
    normalizer = EMANormalizer()
    first = normalizer(NUM_POS)
    normalizer(NUM_POS)
    torch.testing.assert_close(first, torch.tensor([96.6]))


def test_ema_is_in_the_metadata_of_the_state_dict_but_not_in_its_entries():
    trained, resumed = EMANormalizer(), EMANormalizer()
    trained(NUM_POS)
    assert list(trained.state_dict()) == []
    resumed.load_state_dict(trained.state_dict())
    assert torch.equal(resumed.mean, trained.mean)


def test_a_state_dict_without_the_ema_does_not_change_it():
    normalizer = EMANormalizer()
    normalizer(NUM_POS)
    normalizer.load_state_dict({})
    torch.testing.assert_close(normalizer.mean, torch.tensor(96.6))


def test_batch_is_the_sum_and_at_least_one():
    assert BatchNormalizer()(NUM_POS).tolist() == [66.0]
    assert BatchNormalizer()(torch.zeros(3).long()).tolist() == [1.0]


def test_per_image_is_a_mean_over_the_images():
    assert PerImageNormalizer()(NUM_POS).tolist() == [150.0, 3.0, 48.0]


def test_fixed_is_its_value():
    assert FixedNormalizer(value=7.5)(NUM_POS).tolist() == [7.5]


@pytest.mark.parametrize("name", NORMALIZERS)
def test_each_is_built_by_its_name_and_gives_positive_float32_divisors(name):
    cfg = get_cfg()
    cfg.MODEL.FOCAL.NORMALIZER.NAME = name
    normalizer = build_normalizer(cfg)
    assert type(normalizer) is NORMALIZERS[name]
    divisors = normalizer(torch.zeros(4, dtype=torch.int64))
    assert divisors.dtype == torch.float32
    assert divisors.shape in {(1,), (4,)}
    assert (divisors > 0).all()


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("ema", "MODEL.FOCAL.NORMALIZER.MOMENTUM", 1.0),
        ("ema", "MODEL.FOCAL.NORMALIZER.MOMENTUM", -0.1),
        ("ema", "MODEL.FOCAL.NORMALIZER.INIT", 0.0),
        ("fixed", "MODEL.FOCAL.NORMALIZER.VALUE", -1.0),
        ("fixed", "MODEL.FOCAL.NORMALIZER.VALUE", float("nan")),
    ],
)
def test_an_illegal_value_is_an_error_that_names_its_key(name, key, value):
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.FOCAL.NORMALIZER.NAME", name, key, value])
    with pytest.raises(ValueError, match=key.replace(".", r"\.")):
        build_normalizer(cfg)


def test_options_are_read_from_their_keys():
    cfg = get_cfg()
    cfg.MODEL.FOCAL.NORMALIZER.INIT = 10.0
    cfg.MODEL.FOCAL.NORMALIZER.MOMENTUM = 0.5
    torch.testing.assert_close(build_normalizer(cfg)(NUM_POS), torch.tensor([38.0]))


def test_an_unknown_name_is_an_error_that_lists_the_known_ones():
    cfg = get_cfg()
    cfg.MODEL.FOCAL.NORMALIZER.NAME = "emma"
    with pytest.raises(
        KeyError, match=r"MODEL\.FOCAL\.NORMALIZER.*batch, ema, ema_global, fixed, global"
    ):
        build_normalizer(cfg)


# Normalizers of an RPN


COUNTS = {"num_counted": torch.tensor([256, 0, 200]), "num_boxes": torch.tensor([20, 0, 5])}


@pytest.mark.parametrize("name", [name for name in RPN_NORMALIZERS if name != "mean"])
def test_all_normalizers_but_the_mean_have_equal_divisors(name):
    ours, alone = build_rpn_normalizer(name), build_rpn_normalizer(name)
    cls, box = ours.of_both_losses(NUM_POS, **COUNTS)
    assert torch.equal(cls, box)
    assert torch.equal(cls, alone(NUM_POS))


@pytest.mark.parametrize("name", ["ema", "ema_global"])
def test_a_running_mean_updates_once_for_both_losses(name):
    normalizer = build_rpn_normalizer(name)
    normalizer.of_both_losses(NUM_POS, **COUNTS)
    torch.testing.assert_close(normalizer.mean, torch.tensor(96.6))


@pytest.mark.parametrize("size", [1, 64, 256])
def test_batch_size_is_a_constant_for_each_image(size):
    normalizer = build_rpn_normalizer("batch_size", "MODEL.RPN.BATCH_SIZE_PER_IMAGE", size)
    assert type(normalizer) is SampleSizeNormalizer
    assert normalizer(NUM_POS).tolist() == [3.0 * size]
    assert normalizer(torch.zeros(1).long()).tolist() == [float(size)]
    assert normalizer(NUM_POS).dtype == torch.float32


def test_mean_counts_anchors_for_one_loss_and_coordinates_for_the_other():
    normalizer = build_rpn_normalizer("mean")
    assert type(normalizer) is MeanNormalizer
    divisors = normalizer.of_both_losses(NUM_POS, **COUNTS)
    assert [x.tolist() for x in divisors] == [[456.0], [100.0]]
    assert all(x.dtype == torch.float32 for x in divisors)


def test_a_mean_of_nothing_divides_by_one():
    none = torch.zeros(3).long()
    divisors = MeanNormalizer().of_both_losses(none, num_counted=none, num_boxes=none)
    assert [x.tolist() for x in divisors] == [[1.0], [1.0]]


@pytest.mark.parametrize("name", ["batch_size", "mean"])
def test_normalizers_of_an_rpn_are_not_available_to_a_dense_detector(name):
    cfg = get_cfg()
    cfg.MODEL.FOCAL.NORMALIZER.NAME = name
    with pytest.raises(KeyError, match=r"MODEL\.FOCAL\.NORMALIZER\.NAME = "):
        build_normalizer(cfg)


def test_an_unknown_name_for_an_rpn_is_an_error_that_names_its_key_and_lists_them():
    listed = "batch, batch_size, ema, ema_global, fixed, global, mean, per_image"
    with pytest.raises(KeyError, match=rf"MODEL\.FOCAL\.RPN\.NORMALIZER = 'sum' .*{listed}"):
        build_rpn_normalizer("sum")


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("batch_size", "MODEL.RPN.BATCH_SIZE_PER_IMAGE", 0),
        ("fixed", "MODEL.FOCAL.NORMALIZER.VALUE", 0.0),
        ("ema", "MODEL.FOCAL.NORMALIZER.MOMENTUM", 1.0),
    ],
)
def test_an_illegal_option_of_an_rpns_names_the_key_it_is_read_from(name, key, value):
    with pytest.raises(ValueError, match=key.replace(".", r"\.")):
        build_rpn_normalizer(name, key, value)


def build_rpn_normalizer(name, *opts):
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.FOCAL.RPN.NORMALIZER", name, *opts])
    return build_normalizer(cfg, RPN_NORMALIZERS, config_scopes.RPN)
