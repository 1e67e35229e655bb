import numpy as np
import pytest
import torch
from tests.evaluation.arrays import ArrayImages
from torch import nn

from byolt.evaluation.features import Subset, embed, evaluating

MEAN, STD = (0.1, 0.2, 0.3), (0.5, 0.25, 0.125)


class ChannelMeans(nn.Module):
    """Features = the mean of each input channel, so that they can be worked out by hand."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert torch.is_inference_mode_enabled()
        return images.mean((2, 3))


def noise(count: int) -> ArrayImages:
    return ArrayImages(np.random.default_rng(0).integers(0, 256, (count, 4, 4, 3), dtype=np.uint8))


def test_features_are_of_pixels_in_0_to_1_less_mean_over_std_in_rgb_order() -> None:
    images = np.empty((1, 4, 4, 3), np.uint8)
    images[..., 0], images[..., 1], images[..., 2] = 51, 102, 153  # 0.2, 0.4, 0.6 of 255.
    features = embed(ChannelMeans(), ArrayImages(images), mean=MEAN, std=STD, device="cpu")
    # (0.2 - 0.1) / 0.5 = 0.2; (0.4 - 0.2) / 0.25 = 0.8; (0.6 - 0.3) / 0.125 = 2.4
    torch.testing.assert_close(features, torch.tensor([[0.2, 0.8, 2.4]]))


@pytest.mark.parametrize("batch_size", [1, 3, 7, 8])
def test_order_and_values_do_not_depend_on_the_batch_size(batch_size: int) -> None:
    images = noise(7)
    features = embed(ChannelMeans(), images, mean=MEAN, std=STD, device="cpu", batch_size=batch_size)
    reference = (images.images.astype(np.float64) / 255 - MEAN) / STD
    np.testing.assert_allclose(features.numpy(), reference.mean((1, 2)), rtol=1e-5, atol=1e-6)


def test_batchnorm_uses_and_keeps_its_statistics_and_every_mode_is_restored() -> None:
    torch.manual_seed(0)
    frozen = nn.BatchNorm2d(3).eval()
    encoder = nn.Sequential(nn.BatchNorm2d(3), frozen, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    encoder.train()
    frozen.eval()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    features = embed(encoder, noise(5), mean=MEAN, std=STD, device="cpu")
    # At initial statistics BatchNorm divides by sqrt(1 + 1e-5), twice.
    reference = embed(ChannelMeans(), noise(5), mean=MEAN, std=STD, device="cpu") / (1 + 1e-5)
    torch.testing.assert_close(features, reference)
    assert all(torch.equal(before[name], value) for name, value in encoder.state_dict().items())
    assert encoder.training
    assert encoder[0].training
    assert not frozen.training


def test_modes_are_restored_after_a_fault() -> None:
    network = nn.BatchNorm2d(3)
    with pytest.raises(RuntimeError, match="fault"), evaluating(network):
        raise RuntimeError("fault")
    assert network.training


def test_features_may_enter_autograd() -> None:
    features = embed(ChannelMeans(), noise(3), mean=MEAN, std=STD, device="cpu", batch_size=8)
    weight = torch.ones(3, requires_grad=True)
    (features @ weight).sum().backward()  # An inference tensor would raise here.
    torch.testing.assert_close(weight.grad, features.sum(0))


def test_a_subset_fetches_the_images_it_names() -> None:
    images = noise(6)
    subset = Subset(images, np.array([4, 1, 5]))
    assert len(subset) == 3
    np.testing.assert_array_equal(subset.batch(np.array([2, 0])), images.images[[5, 4]])
