"""Draw what a colonoscope sees: folds, vessels, highlights, polyps. It makes only pixels, neither files nor truth.

Shapes: H height, W width, C the 3 colours; U x V a texture around (angle) and along (distance) the wall.
Lengths are in units of half the picture's height, from the picture's centre; pictures are floats in [0, 1],
colours first (CHW), because each ingredient is a plane (HW) and each colour is light times what is absorbed.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

Plane = npt.NDArray[np.floating[Any]]
Mask = npt.NDArray[np.bool_]
Pixels = npt.NDArray[np.uint8]
Pair = tuple[float, float]

CENTERS = ("center_a", "center_b")
TEXTURE = (1024, 512)  # U x V: once around the wall, and a factor of e**pi in distance
TEXELS = TEXTURE[0] / (2 * np.pi)  # texels for a radian, and for a factor of e in distance
RESIDUE_C = (0.1, 0.3, 1.3)  # what bile and stool absorb: mostly blue


@dataclass(frozen=True, kw_only=True)
class Mucosa:
    """The wall of one procedure and the scope that looks at it."""

    vessels: Plane  # U x V, from 0 to 1; the other textures have mean 0 and standard deviation about 1
    mottle: Plane
    relief: Plane
    gloss: Plane
    pools: Plane
    absorption: tuple[float, ...]  # C
    gain: float
    field: Mask  # H x W, true where the scope shows anything
    border: Plane  # C x H x W, what is around the field
    vignette: Plane  # H x W


@dataclass(frozen=True, kw_only=True)
class Polyp:
    """A bump: its centre, half axes and turn in the picture, its blood relative to the wall's, its lobes."""

    centre: Pair
    axes: Pair
    turn: float
    redness: float
    lobes: int
    lobed: float


@dataclass(frozen=True, kw_only=True)
class View:
    """Where a scene looks: the lumen (place, size, stretch), folds, the piece of wall, residue, polyps."""

    lumen: Pair
    size: float
    stretch: float
    density: float
    lobes: int
    wobble: float
    twist: float
    strength: float
    phase: float
    offset: Pair
    residue: float
    exposure: float
    polyps: tuple[Polyp, ...]


@dataclass(frozen=True, kw_only=True)
class Camera:
    """The drift since a scene began: shift, turn (radians), advance (log of the growth), exposure factor."""

    shift: Pair = (0.0, 0.0)
    turn: float = 0.0
    advance: float = 0.0
    exposure: float = 1.0


def field_of_view(center: str, width: int, height: int) -> Mask:
    """Return bool HxW, true where the scope of `center` shows anything: an octagon, or a disc cut flat."""
    x_HW, y_HW = pixel_grid(width, height)
    if center == CENTERS[0]:
        x_HW, y_HW = np.abs(x_HW - 0.08), np.abs(y_HW)
        return np.asarray((x_HW < 1.1) & (y_HW < 0.95) & (x_HW + y_HW < 1.6))
    return np.asarray((np.hypot(x_HW, y_HW) < 1.1) & (np.abs(y_HW) < 0.98))


def mucosa(
    patient: np.random.Generator, procedure: np.random.Generator, center: str, width: int, height: int
) -> Mucosa:
    """Return a procedure's wall: its colour mostly from `patient`, textures from `procedure`. About 0.3 s."""
    blood = patient.uniform(0.8, 1.7) * procedure.uniform(0.92, 1.08)
    yellow = patient.uniform(-0.15, 0.45) + procedure.uniform(-0.05, 0.05)
    x_HW, y_HW = pixel_grid(width, height)
    return Mucosa(
        vessels=_vessels(procedure, patient.uniform(0.6, 1.2)),
        mottle=0.6 * _noise(procedure, 9) + 0.8 * _noise(procedure, 60),
        relief=0.6 * _noise(procedure, 26) + 0.8 * _noise(procedure, 110),
        gloss=_noise(procedure, 15) + 0.9 * _noise(procedure, 80),
        pools=_noise(procedure, 140) + 0.35 * _noise(procedure, 18),
        absorption=(0.22 * blood, 0.98 * blood, (1.02 + yellow) * blood),
        gain=2.9 * procedure.uniform(0.85, 1.2),
        field=field_of_view(center, width, height),
        border=_border(center, procedure, width, height),
        vignette=np.clip(1.08 - 0.5 * (np.square(x_HW / 1.25) + np.square(y_HW / 1.05)) ** 2, 0.15, 1),
    )


def view(rng: np.random.Generator, lumen: Pair, polyps: int) -> View:
    """Return a random look at the wall with the lumen at `lumen`; all polyps are well inside the field."""
    return View(
        lumen=lumen,
        size=rng.uniform(0.75, 1.5),
        stretch=rng.uniform(0.75, 1.3),
        density=rng.uniform(1.1, 2.4),
        lobes=int(rng.integers(2, 5)),
        wobble=rng.uniform(0.1, 0.4),
        twist=rng.uniform(-1.2, 1.2),
        strength=rng.uniform(0.45, 1.0),
        phase=rng.uniform(0, 2 * np.pi),
        offset=(rng.uniform(0, TEXTURE[0]), rng.uniform(0, TEXTURE[1])),
        residue=rng.uniform(-5.0, -0.4),
        exposure=rng.uniform(0.6, 1.5),
        polyps=tuple(_polyp(rng, lumen) for _ in range(polyps)),
    )


def render_view(wall: Mucosa, look: View, camera: Camera) -> tuple[Plane, Mask]:
    """Return the CHW picture without border or noise, and the HxW mask of the polyps inside the field."""
    height, width = wall.field.shape
    x_HW, y_HW = pixel_grid(width, height)
    x_HW = (x_HW - (look.lumen[0] + camera.shift[0])) * look.stretch
    y_HW = y_HW - (look.lumen[1] + camera.shift[1])
    distance_HW = np.sqrt(np.square(x_HW) + np.square(y_HW)) / look.size + np.float32(1e-3)
    depth_HW, angle_HW = camera.advance - np.log(distance_HW), np.arctan2(y_HW, x_HW) + camera.turn
    ring_HW, fold_HW = _folds(look, depth_HW, angle_HW, distance_HW * (height / 2))
    # Each fold hides a piece of wall behind it, so the texture jumps there; highlights slide over the wall.
    texel_HW = _texels(look.offset, angle_HW + 0.4 * ring_HW, depth_HW + 0.3 * ring_HW)
    slid = look.offset[0] + 300 * camera.turn, look.offset[1] + 200 * camera.advance
    gloss_HW = wall.gloss.take(_texels(slid, angle_HW, depth_HW))
    light_HW = _falloff(distance_HW) * fold_HW * (1 + 0.11 * wall.relief.take(texel_HW)) * wall.vignette
    blood_HW = 1 + 0.5 * wall.vessels.take(texel_HW) + 0.07 * wall.mottle.take(texel_HW)
    residue_HW = np.clip(wall.pools.take(texel_HW) + look.residue, 0, 1)
    glint_HW = np.clip((gloss_HW + light_HW - 3.6) / 0.4, 0, 1) * np.clip(2 * light_HW, 0, 1)
    mask_HW = np.zeros_like(wall.field)
    for polyp in look.polyps:
        _bump(polyp, look, camera, (light_HW, blood_HW, residue_HW, glint_HW, mask_HW), wall)
    gain, picture_CHW = wall.gain * look.exposure * camera.exposure, np.empty((3, height, width), np.float32)
    for c, (absorbed, stained) in enumerate(zip(wall.absorption, RESIDUE_C, strict=True)):
        lit_HW = light_HW * np.exp(-absorbed * blood_HW - stained * residue_HW)
        picture_CHW[c] = 1 - np.exp(-gain * lit_HW)
    picture_CHW += (0.97 - picture_CHW) * glint_HW
    return picture_CHW, mask_HW & wall.field


def expose(wall: Mucosa, picture_CHW: Plane, noise: float, rng: np.random.Generator) -> Pixels:
    """Return the HWC bytes of a frame: the picture with noise (standard deviation) inside the border."""
    grain_HW = rng.standard_normal(wall.field.shape, dtype=np.float32) * np.float32(noise)
    return pixels(np.where(wall.field, picture_CHW + grain_HW, wall.border))


def pixels(picture_CHW: Plane) -> Pixels:
    """Return a picture as HxWxC bytes."""
    return np.ascontiguousarray(np.moveaxis((np.clip(picture_CHW, 0, 1) * 255 + 0.5).astype(np.uint8), 0, 2))


def split_planes(image: Image.Image, sigma: float) -> Plane:
    """Return an image as a CHW picture, blurred by a Gaussian of `sigma` pixels."""
    return np.moveaxis(np.asarray(image.filter(ImageFilter.GaussianBlur(sigma)), np.float32) / 255, 2, 0)


def pixel_grid(width: int, height: int) -> tuple[Plane, Plane]:
    """Return the places of the pixels' centres: x as 1xW, y as Hx1."""
    x_W, y_H = (np.arange(n, dtype=np.float32) * (2 / height) + (1 - n) / height for n in (width, height))
    return x_W[None, :], y_H[:, None]


def _noise(rng: np.random.Generator, wavelength: float) -> Plane:
    """Return UxV noise without a seam, of about one wavelength (texels); mean 0, standard deviation 1."""
    spectrum = np.fft.rfft2(rng.standard_normal(TEXTURE, dtype=np.float32))
    u_U, v_V = np.fft.fftfreq(TEXTURE[0]).astype(np.float32), np.fft.rfftfreq(TEXTURE[1]).astype(np.float32)
    octaves = np.log2(np.maximum(np.hypot(u_U[:, None], v_V), 1e-6) * wavelength)
    plane_UV = np.fft.irfft2(spectrum * np.exp(-2 * np.square(octaves)), TEXTURE)
    return np.asarray((plane_UV - plane_UV.mean()) / plane_UV.std(), np.float32)


def _vessels(rng: np.random.Generator, density: float) -> Plane:
    """Return UxV vessels: the thin lines where noise changes sign meet and branch; their width varies."""
    width_UV, patches_UV = np.exp(0.5 * _noise(rng, 110)), np.clip(0.6 + 0.5 * _noise(rng, 120), 0, 1)
    trunks_UV = np.exp(-np.square(_noise(rng, 75) / (0.13 * width_UV)))
    twigs_UV = np.exp(-np.square(_noise(rng, 26) / (0.16 * width_UV)))
    return np.asarray(np.clip(density * (0.8 * trunks_UV + 0.45 * twigs_UV * patches_UV), 0, 1))


def _border(center: str, rng: np.random.Generator, width: int, height: int) -> Plane:
    """Return CHW what is around the field: black with lines of text, or dark slate without."""
    image = Image.new("RGB", (width, height), "black" if center == CENTERS[0] else "#0e1016")
    for line in range(5 if center == CENTERS[0] else 0):
        text = "".join(rng.choice(list("0123456789:/"), 4))
        place = (0.012 * width, (0.3 + 0.06 * line) * height)
        ImageDraw.Draw(image).text(place, text, fill="#bebebe", font_size=0.04 * height)
    return split_planes(image, 0)


def _texels(offset: Pair, angle_HW: Plane, depth_HW: Plane) -> npt.NDArray[np.int32]:
    """Return the flat index of each pixel's texel; 8 periods are added so that no index is negative."""
    u_HW = (angle_HW * np.float32(TEXELS) + np.float32(offset[0] + 8 * TEXTURE[0])).astype(np.int32)
    v_HW = (depth_HW * np.float32(TEXELS) + np.float32(offset[1] + 8 * TEXTURE[1])).astype(np.int32)
    return np.asarray((u_HW & (TEXTURE[0] - 1)) * TEXTURE[1] + (v_HW & (TEXTURE[1] - 1)))


def _falloff(distance: Any) -> Any:
    """Return the light that comes back: next to none from the far lumen (distance 0), most from near wall."""
    return distance * distance / (distance * distance + 0.3)


def _folds(look: View, depth_HW: Plane, angle_HW: Plane, pixels_HW: Plane) -> tuple[Plane, Plane]:
    """Return the number of the fold before each pixel, and its light: bright face, dark behind the rim."""
    lobes_HW = np.cos(look.lobes * angle_HW + look.twist * depth_HW + look.phase)
    phase_HW = look.density * depth_HW + look.wobble * lobes_HW + look.phase
    ring_HW = np.floor(phase_HW)
    rise_HW = phase_HW - ring_HW
    uneven_HW = look.strength * (0.6 + 0.4 * np.cos(angle_HW + 2.4 * ring_HW))
    rim_HW = np.clip((1 - rise_HW) * pixels_HW / (1.5 * look.density), 0, 1)  # softens the rim over a pixel
    face_HW = np.square(np.square(rise_HW)) * rim_HW
    return ring_HW, 1 + uneven_HW * (0.75 * face_HW - 0.8 * np.exp(-4.5 * rise_HW))


def _polyp(rng: np.random.Generator, lumen: Pair) -> Polyp:
    """Return a polyp in the middle of the picture, on the wall rather than in the lumen."""
    places, size = rng.uniform(-0.5, 0.5, (4, 2)), rng.uniform(0.12, 0.32)
    x, y = places[np.argmax(np.hypot(*(places - lumen).T))].tolist()
    return Polyp(
        centre=(x, y),
        axes=(size, size * rng.uniform(0.65, 1.0)),
        turn=rng.uniform(0, np.pi),
        redness=rng.uniform(0.9, 1.5),
        lobes=int(rng.integers(1, 4)),
        lobed=rng.uniform(0.0, 0.1),
    )


def _bump(polyp: Polyp, look: View, camera: Camera, planes: tuple[Any, ...], wall: Mucosa) -> None:
    """Draw a polyp into light, blood, residue, glint and mask, in place; only what is near is touched."""
    height, width = wall.field.shape
    # The wall turns and grows around the lumen, and the polyp with it.
    arm = (complex(*polyp.centre) - complex(*look.lumen)) * np.exp(camera.advance - 1j * camera.turn)
    x, y = arm.real + look.lumen[0] + camera.shift[0], arm.imag + look.lumen[1] + camera.shift[1]
    long, short = np.exp(camera.advance) * np.array(polyp.axes)
    reach = 1.6 * long
    left, top, span = (x - reach + width / height) * height / 2, (y - reach + 1) * height / 2, reach * height
    window = np.s_[max(0, int(top)) : int(top + span) + 1, max(0, int(left)) : int(left + span) + 1]
    light_HW, blood_HW, residue_HW, glint_HW, mask_HW = (plane_HW[window] for plane_HW in planes)
    x_HW, y_HW = pixel_grid(width, height)
    x_HW, y_HW = x_HW[:, window[1]] - x, y_HW[window[0]] - y
    cos, sin = np.cos(polyp.turn - camera.turn), np.sin(polyp.turn - camera.turn)
    a_HW, b_HW = (x_HW * cos + y_HW * sin) / long, (y_HW * cos - x_HW * sin) / short
    outline_HW = 1 - polyp.lobed * (1 - np.cos(polyp.lobes * np.arctan2(b_HW, a_HW) + polyp.turn))
    rho_HW = np.hypot(a_HW, b_HW) / outline_HW  # 1 on the outline
    dome_HW = np.sqrt(np.clip(1 - np.square(rho_HW), 0, 1))
    towards_HW = -(x_HW * x + y_HW * y) / (max(np.hypot(x, y), 1e-3) * long)  # 1 on the side of the camera
    texel_HW = _texels(look.offset, 0.4 * a_HW, 0.4 * b_HW)
    deep = 0.5 + 0.65 * _falloff(abs(arm) / look.size)
    shade_HW = 0.3 + 0.38 * dome_HW + 0.2 * towards_HW + 0.06 * wall.relief.take(texel_HW)
    stain_HW = polyp.redness + 0.25 * wall.vessels.take(texel_HW) + 0.1 * wall.mottle.take(texel_HW)
    facing_HW = np.exp(-(np.square(x_HW + 0.25 * x) + np.square(y_HW + 0.25 * y)) / (0.35 * long) ** 2)
    spark_HW = np.clip((0.5 * wall.gloss.take(texel_HW) + 2.2 * facing_HW - 1.9) / 0.3, 0, 1)
    light_HW *= 1 - 0.5 * np.exp(-np.square((rho_HW - 1) / 0.25)) * np.clip(0.6 - towards_HW, 0.2, 1)
    cover_HW = np.clip((1 - rho_HW) * (short * height / 2) + 0.5, 0, 1)
    light_HW += cover_HW * (shade_HW * deep * wall.vignette[window] - light_HW)
    blood_HW += cover_HW * (stain_HW - blood_HW)
    residue_HW *= 1 - cover_HW
    glint_HW += cover_HW * (spark_HW - glint_HW)
    mask_HW |= rho_HW < 1
