import numpy as np
import torch
from tests.evaluation.arrays import ArrayImages

from byolt.evaluation.baselines import colour_features, pixel_features


def test_pixels_are_in_0_to_1_less_the_images_own_mean_in_channel_order() -> None:
    images = np.zeros((2, 2, 2, 3), np.uint8)
    images[0, 0, 1, 2] = 255  # Row 0, column 1, blue: entry 2 * 4 + 1 of 12, and the image's mean is 1/12.
    expected = torch.full((2, 12), -1 / 12)
    expected[0, 9] = 11 / 12
    expected[1] = 0
    torch.testing.assert_close(pixel_features(ArrayImages(images)), expected)


def test_large_images_are_averaged_down_to_16_px() -> None:
    images = np.zeros((1, 32, 32, 3), np.uint8)
    images[0, 0, 0] = 255  # One of the four pixels under the first pooled one: a quarter, in each channel.
    features = pixel_features(ArrayImages(images))
    mean = 3 * 0.25 / 768
    assert features.shape == (1, 768)
    torch.testing.assert_close(features[0, [0, 1, 256, 512]], torch.tensor([0.25, 0.0, 0.25, 0.25]) - mean)


def test_colours_are_the_square_root_of_a_joint_histogram() -> None:
    images = np.zeros((1, 4, 4, 3), np.uint8)  # 16 pixels.
    images[0, 0, 0] = 255, 0, 0  # Cell (7, 0, 0) = 448.
    images[0, 0, 1] = 31, 32, 255  # Cell (0, 1, 7) = 15: 31 is the last of bin 0, 32 the first of bin 1.
    images[0, 1] = 255, 255, 255  # Cell (7, 7, 7) = 511, four pixels.
    expected = torch.zeros(512)
    expected[448], expected[15], expected[511], expected[0] = 1 / 16, 1 / 16, 4 / 16, 10 / 16
    torch.testing.assert_close(colour_features(ArrayImages(images))[0], expected.sqrt())


def test_batches_keep_the_order() -> None:
    images = ArrayImages(np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), dtype=np.uint8))
    for features in (pixel_features, colour_features):
        torch.testing.assert_close(features(images, 2), features(images, 5))
