import numpy as np
import pytest
import torch

from focal_plugin.losses import asymmetric_loss, giou_loss, sigmoid_focal_loss, softmax_focal_loss


@pytest.mark.parametrize("kind", [list, tuple, np.asarray])
@pytest.mark.parametrize(
    "loss", [sigmoid_focal_loss, softmax_focal_loss, asymmetric_loss, giou_loss]
)
def test_what_is_no_tensor_is_refused_by_name(loss, kind):
    with pytest.raises(TypeError, match=r"^(labels|targets) must be a tensor, got (list|tuple|nd)"):
        loss(torch.zeros(4, 4), kind([0, 1, 2, 3]))
