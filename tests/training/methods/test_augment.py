"""Views against torchvision, an image at a time on the same boxes and amounts."""

import math

import pytest
import torch
from torch.nn.functional import interpolate
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as reference

from training.methods import augment
from training.methods.config import Augmentation, SimclrAugmentation

PLAIN = {"horizontal_flip": 0.0, "vertical_flip": 0.0}
WHOLE = PLAIN | {"scale": (1.0, 1.0), "ratio": (1.0, 1.0)}
NO_COLOUR = {"jitter": 0.0, "grey": 0.0, "blur": 0.0}
pytestmark = pytest.mark.usefixtures("one_thread")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(count: int, height: int, width: int) -> torch.Tensor:
    """Images with structure at every scale, so that a shift or another filter shows."""
    coarse = interpolate(torch.rand(count, 3, 7, 7, generator=seeded(5)), (height, width), mode="bilinear")
    fine = torch.rand(count, 3, height, width, generator=seeded(6))
    return ((coarse + fine) * 127).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [16, 64])  # smaller and larger than the crops
def test_crops_equal_torchvisions(interpolation: str, size: int) -> None:
    images = draw(6, 40, 56)
    config = Augmentation(interpolation=interpolation, **PLAIN)
    crops = augment.random_crops(images, size, config, seeded())
    assert (crops.shape, crops.dtype) == ((6, 3, size, size), torch.float32)
    for image, crop, box in zip(images, crops, augment.random_boxes(6, 40, 56, config, seeded()), strict=True):
        pixels = image.permute(2, 0, 1).float()
        mode = v2.InterpolationMode(interpolation)
        expected = reference.resized_crop(pixels, *box.tolist(), [size, size], interpolation=mode, antialias=True)
        torch.testing.assert_close(crop, expected.clamp(0, 255) / 255, atol=2e-5, rtol=0)


@pytest.mark.parametrize("size", [16, 32, 48])
def test_the_whole_image_is_plainly_resized(size: int) -> None:
    images = draw(2, 32, 32)
    crops = augment.random_crops(images, size, Augmentation(**WHOLE), seeded())
    pixels = images.permute(0, 3, 1, 2).float()
    expected = interpolate(pixels, (size, size), mode="bicubic", antialias=True).clamp(0, 255) / 255
    torch.testing.assert_close(crops, expected, atol=2e-5, rtol=0)
    if size == 32:
        torch.testing.assert_close(crops * 255, pixels, atol=1e-4, rtol=0)


def test_both_layouts_are_one() -> None:
    images = draw(3, 20, 30)
    planes = images.permute(0, 3, 1, 2).contiguous()
    crops = [augment.random_crops(each, 16, Augmentation(), seeded()) for each in (images, planes)]
    assert torch.equal(*crops)


def test_boxes_lie_within_the_image_and_vary_as_asked() -> None:
    config = Augmentation(scale=(0.2, 0.5))
    top, left, tall, wide = augment.random_boxes(4000, 200, 200, config, seeded()).double().unbind(dim=1)
    assert (top.min(), left.min()) == (0, 0)
    assert ((top + tall).max(), (left + wide).max()) == (200, 200)  # the last place is reached
    share, ratio = tall * wide / 200**2, (wide / tall).log()
    assert 0.195 < share.min() < 0.205
    assert 0.495 < share.max() < 0.505
    assert share.mean() == pytest.approx(0.35, abs=0.005)  # uniform
    assert share.std() == pytest.approx(0.3 / math.sqrt(12), rel=0.03)
    assert ratio.mean() == pytest.approx(0, abs=0.01)  # log-uniform
    assert ratio.std() == pytest.approx(2 * math.log(4 / 3) / math.sqrt(12), rel=0.03)
    assert ratio.abs().max() == pytest.approx(math.log(4 / 3), abs=0.02)
    place = top / (200 - tall)
    assert place.mean() == pytest.approx(0.5, abs=0.02)
    assert place.std() == pytest.approx(1 / math.sqrt(12), rel=0.05)
    assert abs(torch.corrcoef(torch.stack([place, left / (200 - wide)]))[0, 1]) < 0.05


def test_boxes_of_oblong_images_fit_or_are_central() -> None:
    boxes = augment.random_boxes(500, 30, 90, Augmentation(), seeded())
    assert ((boxes[:, :2] >= 0).all(), (boxes[:, 2:] >= 1).all()) == (True, True)
    assert (boxes[:, :2] + boxes[:, 2:] <= torch.tensor([30, 90])).all()
    square = augment.random_boxes(2, 10, 101, Augmentation(**WHOLE), seeded())
    assert square.tolist() == [[0, 45, 10, 10]] * 2
    upright = augment.random_boxes(1, 100, 10, Augmentation(scale=(1.0, 1.0)), seeded())
    assert upright.tolist() == [[43, 0, 13, 10]]  # 10 / 13 is the nearest to 3 / 4


def test_flips_flip() -> None:
    images = draw(64, 24, 24)

    def crops(horizontal: float, vertical: float) -> torch.Tensor:
        config = Augmentation(horizontal_flip=horizontal, vertical_flip=vertical)
        return augment.random_crops(images, 16, config, seeded())

    plain = crops(0, 0)
    assert torch.equal(crops(1, 0), plain.flip(3))
    assert torch.equal(crops(0, 1), plain.flip(2))
    assert torch.equal(crops(1, 1), plain.flip(2, 3))
    turned = [
        [torch.equal(some, each) for each in (one, one.flip(2), one.flip(1), one.flip(1, 2))].index(True)
        for some, one in zip(crops(0.5, 0.25), plain, strict=True)
    ]
    assert [turned.count(way) for way in range(4)] == pytest.approx([24, 24, 8, 8], abs=9)
    assert min(turned.count(way) for way in range(4)) > 0


def test_the_generator_decides_everything() -> None:
    images = draw(8, 24, 24)
    torch.manual_seed(1)
    for view in (
        lambda generator: augment.random_crops(images, 16, Augmentation(), generator),
        lambda generator: augment.simclr_views(images, 16, SimclrAugmentation(), generator),
    ):
        first, again, other = view(seeded()), view(seeded()), view(seeded(1))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
        generator = seeded()
        view(generator)
        after = generator.get_state()
        generator = seeded()
        view(generator)
        assert torch.equal(after, generator.get_state())
    left_alone = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(left_alone, torch.rand(1))


def test_images_of_a_batch_differ_in_their_draws() -> None:
    images = draw(1, 24, 24).repeat(16, 1, 1, 1)
    views = augment.simclr_views(images, 16, SimclrAugmentation(), seeded())
    apart = (views[:, None] - views[None]).abs().amax(dim=(2, 3, 4))
    assert (apart + torch.eye(16)).min() > 0.01
    assert 0 <= views.min() < views.max() <= 1


def test_autocast_does_not_round_pixels() -> None:
    images = draw(4, 24, 24)
    for view in (
        lambda: augment.random_crops(images, 16, Augmentation(), seeded()),
        lambda: augment.simclr_views(images, 16, SimclrAugmentation(), seeded()),
    ):
        exact = view()
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(view(), exact)


@pytest.mark.parametrize("seed", range(4))  # four orders
def test_colours_change_as_torchvisions(seed: int) -> None:
    pixels = augment.random_crops(draw(5, 20, 20), 16, Augmentation(), seeded())
    config = SimclrAugmentation(jitter=1.0)
    changed = augment.colour_jitter(pixels, config, seeded(seed))
    generator = seeded(seed)
    amounts = (2 * torch.rand(4, 5, generator=generator) - 1) * torch.tensor([[0.8], [0.8], [0.8], [0.2]])
    torch.rand(5, generator=generator)
    order = torch.randperm(4, generator=generator).tolist()
    for i in range(5):
        changes = [
            lambda x, i=i: reference.adjust_brightness(x, 1 + amounts[0, i].item()),
            lambda x, i=i: reference.adjust_contrast(x, 1 + amounts[1, i].item()),
            lambda x, i=i: reference.adjust_saturation(x, 1 + amounts[2, i].item()),
            lambda x, i=i: reference.adjust_hue(x, amounts[3, i].item()),
        ]
        expected = pixels[i]
        for change in order:
            expected = changes[change](expected)
        torch.testing.assert_close(changed[i], expected, atol=1e-3, rtol=0)
    assert (changed - pixels).abs().max() > 0.05


def test_hue_by_hand() -> None:
    red = torch.tensor([0.8, 0.2, 0.2])[None, :, None, None]
    for turns, expected in ((1 / 3, [0.2, 0.8, 0.2]), (-1 / 3, [0.2, 0.2, 0.8]), (0.5, [0.2, 0.8, 0.8]), (0, red)):
        turned = augment.turn_hue(red, torch.full((1, 1, 1, 1), turns))
        torch.testing.assert_close(turned.flatten(), torch.as_tensor(expected).flatten(), atol=1e-6, rtol=0)
    grey = torch.full((1, 3, 1, 1), 0.4)
    assert torch.equal(augment.turn_hue(grey, torch.full((1, 1, 1, 1), 0.3)), grey)


def test_chances_of_colour_grey_and_blur() -> None:
    images = draw(400, 12, 12)
    none = augment.simclr_views(images, 12, SimclrAugmentation(**NO_COLOUR), seeded())
    torch.testing.assert_close(
        none, augment.random_crops(images, 12, SimclrAugmentation(), seeded()), atol=1e-6, rtol=0
    )
    for name, share in (("jitter", 0.8), ("grey", 0.2), ("blur", 0.5)):
        some = augment.simclr_views(images, 12, SimclrAugmentation(**NO_COLOUR | {name: share}), seeded())
        changed = ((some - none).abs().amax(dim=(1, 2, 3)) > 1e-3).double()
        assert changed.mean() == pytest.approx(share, abs=0.07), name  # a blur of 0.1 pixels changes nothing
    grey = augment.simclr_views(images, 12, SimclrAugmentation(**NO_COLOUR | {"grey": 1.0}), seeded())
    weights = torch.tensor([0.299, 0.587, 0.114])
    expected = torch.einsum("bchw,c->bhw", none, weights)[:, None].expand(-1, 3, -1, -1)
    torch.testing.assert_close(grey, expected, atol=1e-6, rtol=0)


def test_blur_equals_torchvisions_away_from_the_border() -> None:
    pixels = augment.random_crops(draw(3, 64, 64), 60, Augmentation(**WHOLE), seeded())
    blurred = augment.blur(pixels, torch.tensor([0.0, 0.7, 2.0]))
    assert torch.equal(blurred[0], pixels[0])
    for i, sigma in ((1, 0.7), (2, 2.0)):
        expected = reference.gaussian_blur(pixels[i], [7, 7], [sigma, sigma])  # 60 px: 3 on each side
        torch.testing.assert_close(blurred[i, :, 3:-3, 3:-3], expected[:, 3:-3, 3:-3], atol=1e-5, rtol=0)
    flat = torch.full((1, 3, 60, 60), 0.3)
    torch.testing.assert_close(augment.blur(flat, torch.tensor([2.0])), flat)  # no dark rim


def test_the_blur_is_of_a_tenth_to_two_pixels() -> None:
    dot = torch.zeros(300, 40, 40, 3, dtype=torch.uint8)
    dot[:, 20, 20] = 255
    config = SimclrAugmentation(**WHOLE | NO_COLOUR | {"blur": 1.0})
    left = augment.simclr_views(dot, 40, config, seeded())[:, 0, 20, 20]

    def expected(sigma: float) -> float:  # 2 pixels on each side
        return sum(math.exp(-0.5 * (x / sigma) ** 2) for x in range(-2, 3)) ** -2

    assert left.min() == pytest.approx(expected(2), rel=0.02)
    assert left.median() == pytest.approx(expected(1.05), rel=0.15)
    assert left.max() > 0.99


def test_normalise_and_back() -> None:
    pixels = draw(2, 8, 8).permute(0, 3, 1, 2)
    mean, std = (0.4, 0.5, 0.6), (0.1, 0.2, 0.4)
    normal = augment.normalise(pixels / 255, mean, std)
    assert normal[1, 2, 3, 4].item() == pytest.approx((pixels[1, 2, 3, 4].item() / 255 - 0.6) / 0.4, abs=1e-6)
    assert torch.equal(augment.to_bytes(normal, mean, std), pixels)
    assert augment.to_bytes(torch.full((1, 3, 1, 1), 99.0), mean, std).unique().tolist() == [255]


def test_options_that_cannot_be() -> None:
    with pytest.raises(ValueError, match=r"scale is 0.0, 1.0; give two numbers in order, above 0.0 and up to 1.0"):
        Augmentation(scale=(0.0, 1.0))
    with pytest.raises(ValueError, match=r"ratio is 2.0, 1.0"):
        SimclrAugmentation(ratio=(2.0, 1.0))
    with pytest.raises(ValueError, match=r"blur is 1.5; a probability lies between 0 and 1"):
        SimclrAugmentation(blur=1.5)
    with pytest.raises(ValueError, match=r"strength is -1; it must be between 0 and 2.5"):
        SimclrAugmentation(strength=-1)
