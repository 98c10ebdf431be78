"""Tests of the memory of gradients that is kept from step to step."""

import threading

import pytest
import torch
from torch import Tensor

from focal_plugin.losses.sigmoid_focal import Focal
from focal_plugin.ops import Terms, dense_loss, empty_cache
from focal_plugin.ops.extension import has_extension
from focal_plugin.ops.recycled import LEAST_BYTES, empty_recycled

pytestmark = pytest.mark.skipif(not has_extension(), reason="the extension is not built")

FLOATS = LEAST_BYTES // 4
FOCAL = Terms(Focal(2.0), Focal(2.0), 0.25, 0.75)


@pytest.fixture(autouse=True)
def _no_memory_of_other_tests():
    empty_cache()
    yield
    empty_cache()


def new(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return empty_recycled(torch.empty(*shape, dtype=dtype))


def test_memory_is_used_again_with_another_shape_and_dtype():
    first = new(2, FLOATS)
    address = first.data_ptr()
    del first
    second = new(FLOATS, 2, dtype=torch.bfloat16)
    assert second.data_ptr() == address
    assert second.shape == (FLOATS, 2)
    assert second.dtype == torch.bfloat16
    assert second.is_contiguous()
    assert second._base is None


@pytest.mark.parametrize(
    "keep",
    [
        lambda x: x,
        lambda x: x[-1:],
        lambda x: x.detach(),
        lambda x: x.numpy(),
        lambda x: memoryview(x.numpy()),
        lambda x: x.untyped_storage(),
        lambda x: torch.from_dlpack(x),
    ],
    ids=["itself", "view", "detached", "array", "buffer", "storage", "DLPack"],
)
def test_memory_is_not_used_again_while_anything_has_it(keep):
    first = new(FLOATS)
    address = first.data_ptr()
    kept = keep(first)
    del first
    assert new(FLOATS).data_ptr() != address
    del kept
    assert address in {x.data_ptr() for x in (new(FLOATS), new(FLOATS))}


def test_shared_memory_is_not_used_again():
    first = new(FLOATS)
    first.share_memory_()
    address = first.data_ptr()
    del first
    assert new(FLOATS).data_ptr() != address


def test_there_are_no_more_buffers_than_were_in_use_at_once():
    for size in range(1, 9):  # each larger than all before
        large, small = new(4 * size, FLOATS), new(size, FLOATS)
        del large, small
    assert empty_cache() == (4 * 8 + 8) * LEAST_BYTES


def test_a_small_tensor_has_memory_of_its_own():
    assert new(FLOATS - 1).untyped_storage().nbytes() == LEAST_BYTES - 4
    assert empty_cache() == 0


def test_emptying_the_cache_spares_memory_that_is_in_use():
    kept, dropped = new(FLOATS).fill_(1), new(FLOATS)
    del dropped
    assert empty_cache() == LEAST_BYTES
    assert new(FLOATS).fill_(2).data_ptr() != kept.data_ptr()
    assert kept.eq(1).all()


def test_threads_share_no_memory():
    tensors: list[Tensor] = []

    def create() -> None:
        for _ in range(50):
            tensors.append(new(FLOATS))

    threads = [threading.Thread(target=create) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({x.data_ptr() for x in tensors}) == 200


def test_gradients_of_two_losses_are_separate():
    logits = torch.randn(4096, 80)
    labels = torch.full((4096,), 80)
    first, second = (logits.clone().requires_grad_() for _ in range(2))
    for x, scale in ((first, 1.0), (second, 2.0)):
        dense_loss(x, labels, FOCAL, scale=scale, impl="cpp").backward()
    assert first.grad is not None
    assert second.grad is not None
    assert torch.equal(first.grad * 2, second.grad)
    address = first.grad.data_ptr()
    first.grad = None
    dense_loss(first, labels, FOCAL, impl="cpp").backward()
    assert first.grad is not None
    assert first.grad.data_ptr() == address
