"""Images and masks of every coding that the sets have, against pixels known beforehand."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from PIL import Image, ImageFilter, UnidentifiedImageError

from curation.frames import decoding as frames
from training.datasets import folders, masks
from training.datasets.codings import KNOWN
from training.datasets.folders import Example

Pixels = npt.NDArray[np.uint8]


def picture(height: int = 48, width: int = 64, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def disc(height: int = 48, width: int = 64) -> Pixels:
    """A mask of 0 and 1 with one disc off the middle."""
    rows, columns = np.ogrid[:height, :width]
    return ((rows - height * 0.4) ** 2 + (columns - width * 0.6) ** 2 < (height * 0.3) ** 2).astype(np.uint8)


def save(path: Path, pixels: Pixels, **options: int) -> str:
    Image.fromarray(pixels).save(path, **options)
    return str(path)


def example(tmp_path: Path, *mask: str, image: Pixels | None = None) -> Example:
    return Example("x", save(tmp_path / "image.png", picture() if image is None else image), mask)


def planar(path: Path, pixels: Pixels) -> str:
    """As CVC-ClinicDB: RGB in planes, tagged as gray where black is 0."""
    tifffile.imwrite(path, np.moveaxis(pixels, 2, 0), photometric="minisblack", planarconfig="separate")
    return str(path)


def test_a_planar_tiff_with_a_wrong_tag_is_read(tmp_path: Path) -> None:
    pixels = picture()
    path = planar(tmp_path / "1.tif", pixels)
    with pytest.raises(UnidentifiedImageError):
        Image.open(path)
    assert np.array_equal(masks.read_image(path), pixels)
    assert masks.image_size(path) == (64, 48)
    resized = Image.fromarray(pixels).resize((32, 32), Image.Resampling.BICUBIC)
    assert np.array_equal(masks.square_image(path, 32), np.asarray(resized))


def test_clinicdb_as_it_is_published(tmp_path: Path) -> None:
    """From the set's own folders to arrays: planar frames, and masks of the same kind."""
    for folder in ("Original", "Ground Truth"):
        (tmp_path / folder).mkdir()
    for number in (1, 26):
        planar(tmp_path / "Original" / f"{number}.tif", picture(seed=number))
        planar(tmp_path / "Ground Truth" / f"{number}.tif", np.repeat(disc()[:, :, None] * np.uint8(255), 3, axis=2))
    found = folders.find_dataset("cvc-clinicdb", str(tmp_path), partial=True)
    assert [one.groups for one in found.examples] == [("sequence 1",), ("sequence 2",)]
    assert np.array_equal(masks.read_image(found.examples[1].image), picture(seed=26))
    assert np.array_equal(masks.read_mask(found.examples[1]), disc())


@pytest.mark.parametrize("axes", ["gray", "rgb", "two pages", "deep", "truth"])
def test_other_tiffs(axes: str, tmp_path: Path) -> None:
    gray, path = picture()[:, :, 0], tmp_path / "x.tiff"
    if axes == "gray":
        tifffile.imwrite(path, gray)
    elif axes == "rgb":
        tifffile.imwrite(path, picture(), photometric="rgb")
    elif axes == "two pages":
        tifffile.imwrite(path, np.stack([gray, 255 - gray]), photometric="minisblack")
    elif axes == "deep":
        tifffile.imwrite(path, gray.astype(np.uint16) * 257)
    else:
        tifffile.imwrite(path, gray > 127, photometric="minisblack")
    expected = {
        "gray": gray[:, :, None],
        "rgb": picture(),
        "two pages": np.stack([gray, 255 - gray], axis=2),
        "deep": gray[:, :, None],
        "truth": np.where(gray > 127, 255, 0)[:, :, None],
    }[axes]
    assert np.array_equal(masks.read_planes(str(path)), expected)


def test_samples_of_no_picture_are_an_error(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "x.tif", np.ones((2, 4, 4), np.float64), photometric="minisblack")
    with pytest.raises(ValueError, match=r"x.tif cannot be read .* samples are float64; expected 8 or 16 bits"):
        masks.read_planes(str(tmp_path / "x.tif"))


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "1", "I;16"])
def test_images_of_all_modes_are_rgb(mode: str, tmp_path: Path) -> None:
    image = Image.fromarray(disc() * np.uint8(255))
    deep = Image.fromarray(disc().astype(np.uint16) * 65535)
    image = deep if mode == "I;16" else image.convert(mode)
    image.save(tmp_path / "x.png")
    pixels = masks.read_image(str(tmp_path / "x.png"))
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, np.repeat(disc()[:, :, None] * np.uint8(255), 3, axis=2))


def test_jpeg_masks_lose_their_gray_edges(tmp_path: Path) -> None:
    """JPEG rings around the border, and blur: values from 0 to 255 that a test for non-zero would take."""
    soft = Image.fromarray(disc() * np.uint8(255)).filter(ImageFilter.GaussianBlur(1))
    soft.save(tmp_path / "soft.jpg", quality=60)
    values = np.asarray(Image.open(tmp_path / "soft.jpg"))
    assert (np.unique(values).size, bool((values > 0).mean() > disc().mean() * 1.3)) > (20, False)
    read = masks.read_mask(example(tmp_path, str(tmp_path / "soft.jpg")))
    assert set(np.unique(read)) == {0, 1}
    assert (read != disc()).mean() < 0.02  # the border's pixels only
    dark = np.full((48, 64), 1, np.uint8)
    assert masks.read_mask(example(tmp_path, save(tmp_path / "dark.jpg", dark, quality=95)), coding=KNOWN).sum() == 0


def test_the_threshold_is_127(tmp_path: Path) -> None:
    ramp = np.arange(256, dtype=np.uint8)[None, :].repeat(256, axis=0)
    read = masks.read_mask(example(tmp_path, save(tmp_path / "ramp.png", ramp), image=picture(256, 256)))
    assert np.array_equal(read, (ramp >= 128).astype(np.uint8))


@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (128, 0, 128), (255, 255, 255)])
def test_any_colour_is_foreground(colour: tuple[int, int, int], tmp_path: Path) -> None:
    """Blue is below 127 in luma, so a mask turned gray would be empty."""
    pixels = disc()[:, :, None] * np.array(colour, np.uint8)
    assert np.array_equal(masks.read_mask(example(tmp_path, save(tmp_path / "m.png", pixels))), disc())


def test_masks_of_several_colours_are_joined(tmp_path: Path) -> None:
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[:8, :, 0], pixels[16:24, :, 1], pixels[32:40, :, 2] = 255, 200, 128
    read = masks.read_mask(example(tmp_path, save(tmp_path / "m.png", pixels)))
    assert read.any(axis=1).nonzero()[0].tolist() == [*range(8), *range(16, 24), *range(32, 40)]


def test_a_palette_and_masks_of_0_and_1(tmp_path: Path) -> None:
    palette = Image.fromarray(disc()).convert("P")
    palette.putpalette([0, 0, 0, 0, 0, 200])
    palette.save(tmp_path / "p.png", transparency=bytes([0, 255]))
    assert np.array_equal(masks.read_mask(example(tmp_path, str(tmp_path / "p.png"))), disc())
    assert np.array_equal(masks.read_mask(example(tmp_path, save(tmp_path / "m.png", disc()))), disc())
    empty = save(tmp_path / "e.png", np.zeros((48, 64), np.uint8))
    assert masks.read_mask(example(tmp_path, empty)).sum() == 0


def numbered(*values: int) -> Pixels:
    """Stripes of the values, left to right."""
    return np.repeat(np.array(values, np.uint8), 64 // len(values))[None, :].repeat(48, axis=0)


@pytest.mark.parametrize("values", [(0, 2), (0, 1, 2, 3), (0, 0, 9, 5), (0, 7, 0, 0), (0, 0, 0, 0), (1, 1, 3, 3)])
@pytest.mark.parametrize("kind", ["png", "tif", "bmp", "rgb.png", "deep.png", "deep.tif"])
def test_numbered_classes_are_foreground_but_0(kind: str, values: tuple[int, ...], tmp_path: Path) -> None:
    codes, path = numbered(*values), tmp_path / f"m.{kind}"
    if kind == "rgb.png":
        save(path, np.repeat(codes[:, :, None], 3, axis=2))
    elif kind.startswith("deep"):
        Image.fromarray(codes.astype(np.uint16)).save(path)
    else:
        save(path, codes)
    assert np.array_equal(masks.read_mask(example(tmp_path, str(path)), coding=KNOWN), (codes > 0).astype(np.uint8))


@pytest.mark.parametrize("values", [(0, 10), (0, 2, 200, 255), (0, 1, 127, 128), (0, 60, 100, 40)])
def test_values_from_10_on_are_brightness(values: tuple[int, ...], tmp_path: Path) -> None:
    gray = numbered(*values)
    expected = (gray > 127).astype(np.uint8)
    assert np.array_equal(masks.read_mask(example(tmp_path, save(tmp_path / "m.png", gray)), coding=KNOWN), expected)
    palette = Image.fromarray(gray).convert("P", palette=Image.Palette.ADAPTIVE, colors=4)
    palette.save(tmp_path / "p.png")
    assert palette.mode == "P"
    assert np.array_equal(masks.read_mask(example(tmp_path, str(tmp_path / "p.png")), coding=KNOWN), expected)


def test_a_lossy_file_numbers_no_classes(tmp_path: Path) -> None:
    path = save(tmp_path / "m.jpg", numbered(0, 8), quality=100)
    assert np.asarray(Image.open(path)).max() >= 8
    assert masks.read_mask(example(tmp_path, path), coding=KNOWN).sum() == 0


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif"])
def test_the_colours_of_a_palette_may_be_dark(suffix: str, tmp_path: Path) -> None:
    """As labelling tools make them: class 8 is (64, 0, 0). The order of the entries tells nothing."""
    colours = [64, 0, 0, 0, 64, 0, 128, 0, 0, 0, 0, 0]  # black is the last
    palette = Image.fromarray(numbered(0, 1, 2, 3)).convert("P")
    palette.putpalette(colours)
    palette.save(tmp_path / f"m.{suffix}")
    read = masks.read_mask(example(tmp_path, str(tmp_path / f"m.{suffix}")))
    assert np.array_equal(read, (numbered(0, 1, 2, 3) < 3).astype(np.uint8))


def test_a_palette_without_black_or_of_many_colours_is_a_picture(tmp_path: Path) -> None:
    two = Image.fromarray(numbered(0, 1)).convert("P")
    two.putpalette([68, 1, 84, 253, 231, 37])
    two.save(tmp_path / "two.png")
    assert np.array_equal(masks.read_mask(example(tmp_path, str(tmp_path / "two.png")), coding=KNOWN), numbered(0, 1))
    many = Image.fromarray(np.arange(64, dtype=np.uint8)[None, :].repeat(48, axis=0)).convert("P")
    many.putpalette([value for step in range(64) for value in (step * 4, 0, 0)])
    many.save(tmp_path / "many.png")
    expected = (np.arange(64) >= 32)[None, :].repeat(48, axis=0)
    assert np.array_equal(masks.read_mask(example(tmp_path, str(tmp_path / "many.png")), coding=KNOWN), expected)


def test_16_bits_that_hold_8(tmp_path: Path) -> None:
    Image.fromarray(disc().astype(np.uint16) * 255).save(tmp_path / "m.png")
    assert np.array_equal(masks.read_mask(example(tmp_path, str(tmp_path / "m.png"))), disc())


def test_several_masks_are_joined_whatever_their_size(tmp_path: Path) -> None:
    left, right = np.zeros((48, 64), np.uint8), np.zeros((96, 128), np.uint8)
    left[:, :16], right[:, 96:] = 255, 255
    both = example(tmp_path, save(tmp_path / "a_BE.tif", left), save(tmp_path / "a_HGD.tif", right))
    expected = np.zeros((48, 64), np.uint8)
    expected[:, :16] = expected[:, 48:] = 1
    assert np.array_equal(masks.read_mask(both), expected)
    assert np.array_equal(masks.read_mask(both, 4), np.array([[1, 0, 0, 1]] * 4))


def test_the_planes_of_a_mask_are_joined(tmp_path: Path) -> None:
    planes = np.zeros((5, 48, 64), np.uint8)
    for number in range(5):
        planes[number, number * 8 : number * 8 + 4] = 255
    tifffile.imwrite(tmp_path / "00000_mask.tif", planes, photometric="minisblack")
    read = masks.read_mask(example(tmp_path, str(tmp_path / "00000_mask.tif")))
    assert np.array_equal(read, (planes.max(axis=0) > 0).astype(np.uint8))


def test_a_turned_mask_is_an_error_and_another_size_is_not(tmp_path: Path) -> None:
    turned = save(tmp_path / "turned.png", disc(64, 48) * np.uint8(255))
    with pytest.raises(ValueError, match=r"turned.png is 48 x 64, of another shape than its image .* 64 x 48"):
        masks.read_mask(example(tmp_path, turned))
    nearly = save(tmp_path / "nearly.png", disc(47, 64) * np.uint8(255))
    assert (masks.read_mask(example(tmp_path, nearly)) != disc()).mean() < 0.05


def test_arrays_keep_order_and_match_their_parts(tmp_path: Path) -> None:
    one = Example("a", save(tmp_path / "a.jpg", picture(seed=1)), (save(tmp_path / "a.png", disc() * np.uint8(255)),))
    two = Example("b", planar(tmp_path / "b.tif", picture(96, 96)), (save(tmp_path / "b.png", disc(24, 24) * 255),))
    images, lesions = masks.arrays([two, one], 32)
    assert (images.dtype, images.shape, lesions.dtype, lesions.shape) == (
        np.uint8,
        (2, 32, 32, 3),
        np.uint8,
        (2, 32, 32),
    )
    assert np.array_equal(images[1], frames.decode(Path(one.image).read_bytes(), 32))  # as in pre-training
    assert np.array_equal(images[0], masks.square_image(two.image, 32))
    assert np.array_equal(lesions[0], masks.read_mask(two, 32))
    assert np.array_equal(lesions[1], masks.resize_mask(disc(), (32, 32)))
    assert masks.arrays([], 8)[0].shape == (0, 8, 8, 3)


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes((Path(save(tmp_path / "m.png", disc()))).read_bytes()[:60])
    (tmp_path / "text.jpg").write_text("no picture")
    whole = Path(planar(tmp_path / "whole.tif", picture())).read_bytes()
    (tmp_path / "broken.tif").write_bytes(whole[:-2000])
    for name in ("broken.png", "text.jpg", "broken.tif"):
        with pytest.raises(ValueError, match=f"{name} cannot be read"):
            masks.read_mask(example(tmp_path, str(tmp_path / name)))
        with pytest.raises(ValueError, match=f"{name} cannot be read"):
            masks.arrays([Example("x", str(tmp_path / name), (str(tmp_path / "m.png"),))], 8)
    with pytest.raises(ValueError, match=r"gone.png cannot be read: .*No such file"):
        masks.read_mask(example(tmp_path, str(tmp_path / "gone.png")))
    with pytest.raises(ValueError, match=r"image.png has no mask; leave it out or annotate it"):
        masks.read_mask(example(tmp_path))


@pytest.mark.parametrize("turned", ["image", "mask", "both"])
@pytest.mark.parametrize("shape", [(48, 64), (64, 64)])
def test_images_and_masks_are_turned_each_by_its_own_tag(turned: str, shape: tuple[int, int], tmp_path: Path) -> None:
    """A square one would not tell by its shape."""
    exif = Image.Exif()
    exif[274] = 6
    shown = {"image": Image.fromarray(picture(*shape)), "mask": Image.fromarray(disc(*shape) * np.uint8(255))}
    for name, image in shown.items():
        if turned in (name, "both"):
            image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / f"{name}.png", exif=exif)
        else:
            image.save(tmp_path / f"{name}.png")
    one = Example("x", str(tmp_path / "image.png"), (str(tmp_path / "mask.png"),))
    assert masks.image_size(one.image) == shape[::-1]
    assert np.array_equal(masks.read_image(one.image), picture(*shape))
    assert np.array_equal(masks.read_mask(one), disc(*shape))
    images, lesions = masks.arrays([one], 32)
    squeezed = shown["image"].resize((32, 32), Image.Resampling.BICUBIC)
    assert np.array_equal(images[0], np.asarray(squeezed))
    assert np.array_equal(lesions[0], masks.resize_mask(disc(*shape), (32, 32)))
