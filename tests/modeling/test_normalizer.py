import pytest
import torch

from focal_plugin import get_cfg
from focal_plugin.modeling.normalizer import (
    NORMALIZERS,
    BatchNormalizer,
    EMANormalizer,
    FixedNormalizer,
    PerImageNormalizer,
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


def test_ema_travels_with_the_state_dict_but_is_no_entry_of_it():
    trained, resumed = EMANormalizer(), EMANormalizer()
    trained(NUM_POS)
    assert list(trained.state_dict()) == []
    resumed.load_state_dict(trained.state_dict())
    assert torch.equal(resumed.mean, trained.mean)


def test_ema_is_left_alone_by_a_state_dict_without_it():
    normalizer = EMANormalizer()
    normalizer(NUM_POS)
    normalizer.load_state_dict({})
    torch.testing.assert_close(normalizer.mean, torch.tensor(96.6))


def test_batch_is_the_sum_and_at_least_one():
    assert BatchNormalizer()(NUM_POS).tolist() == [66.0]
    assert BatchNormalizer()(torch.zeros(3).long()).tolist() == [1.0]


def test_per_image_is_a_mean_over_images_of_each_ones_own():
    assert PerImageNormalizer()(NUM_POS).tolist() == [150.0, 3.0, 48.0]


def test_fixed_is_its_value():
    assert FixedNormalizer(value=7.5)(NUM_POS).tolist() == [7.5]


@pytest.mark.parametrize("name", NORMALIZERS)
def test_each_is_built_by_its_name_and_gives_positive_float32_divisors(name):
    cfg = get_cfg()
    cfg.MODEL.FOCAL.NORMALIZER = name
    normalizer = build_normalizer(cfg)
    assert type(normalizer) is NORMALIZERS[name]
    divisors = normalizer(torch.zeros(4, dtype=torch.int64))
    assert divisors.dtype == torch.float32
    assert divisors.shape in {(1,), (4,)}
    assert (divisors > 0).all()


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("ema", "MODEL.FOCAL.NORMALIZER_MOMENTUM", 1.0),
        ("ema", "MODEL.FOCAL.NORMALIZER_MOMENTUM", -0.1),
        ("ema", "MODEL.FOCAL.NORMALIZER_INIT", 0.0),
        ("fixed", "MODEL.FOCAL.NORMALIZER_VALUE", -1.0),
        ("fixed", "MODEL.FOCAL.NORMALIZER_VALUE", float("nan")),
    ],
)
def test_an_illegal_value_is_an_error_that_names_its_key(name, key, value):
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.FOCAL.NORMALIZER", name, key, value])
    with pytest.raises(ValueError, match=key.replace(".", r"\.")):
        build_normalizer(cfg)


def test_options_are_read_from_their_keys():
    cfg = get_cfg()
    cfg.MODEL.FOCAL.NORMALIZER_INIT = 10.0
    cfg.MODEL.FOCAL.NORMALIZER_MOMENTUM = 0.5
    torch.testing.assert_close(build_normalizer(cfg)(NUM_POS), torch.tensor([38.0]))


def test_an_unknown_name_is_an_error_that_lists_the_known_ones():
    cfg = get_cfg()
    cfg.MODEL.FOCAL.NORMALIZER = "emma"
    with pytest.raises(
        KeyError, match=r"MODEL\.FOCAL\.NORMALIZER.*batch, ema, ema_global, fixed, global"
    ):
        build_normalizer(cfg)
