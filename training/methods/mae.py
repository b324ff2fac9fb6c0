"""Masked autoencoder (He et al., arXiv 2111.06377) over a timm Vision Transformer. It knows neither files nor the loop.

All randomness is an argument: the masks come from noise that the caller draws, the weights from a seed.

Legend: B images of C channels and side S; T patches of P values, V of them visible; R class and register tokens;
D the encoder's width, E the decoder's.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import torch
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from curation.embeddings.encoder import UNTRAINED, build, statistics_of
from curation.options import require
from training.methods.augment import Statistics, normalise, random_crops, to_bytes
from training.methods.config import Augmentation, MaeConfig

VARIANCE_FLOOR = 1e-6  # added to a patch's variance before dividing
PUBLISHED = {"mask_token": "decoder.mask_token", "decoder_": "decoder."}  # key names elsewhere: ours


def patchify(images_BCSS: Tensor, patch: int) -> Tensor:
    """Cut images into patches [B, T, P], row by row; a patch's values run by row, column, channel."""
    batch, channels, height, width = images_BCSS.shape
    cut = images_BCSS.reshape(batch, channels, height // patch, patch, width // patch, patch)
    return cut.permute(0, 2, 4, 3, 5, 1).reshape(batch, -1, patch * patch * channels)


def unpatchify(patches_BTP: Tensor, patch: int) -> Tensor:
    """Reassemble the patches of square images: the inverse of `patchify`."""
    batch, count, values = patches_BTP.shape
    grid, channels = round(count**0.5), values // patch**2
    laid = patches_BTP.reshape(batch, grid, grid, patch, patch, channels)
    return laid.permute(0, 5, 1, 3, 2, 4).reshape(batch, channels, grid * patch, grid * patch)


def fixed_positions(grid: int, width: int, prefix: int) -> Tensor:
    """Sine-cosine table [1, R + grid * grid, width] in float32; the rows of the prefix tokens are zero.

    The first half of the columns encodes a patch's column in the picture, the second its row: sines, then cosines, of
    the position times 10000^(-i / n), for i below n = width / 4 (Vaswani et al. 2017, for each axis).
    """
    place = torch.arange(grid, dtype=torch.float64)
    angles = torch.outer(place, 10000.0 ** (-torch.arange(width // 4, dtype=torch.float64) / (width // 4)))
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)
    table = torch.cat([waves.repeat(grid, 1), waves.repeat_interleave(grid, dim=0)], dim=1)
    return torch.cat([torch.zeros(prefix, width), table.float()])[None]


@torch.no_grad()
def initialise(module: nn.Module, generator: torch.Generator) -> None:
    """Draw the weights as the paper's recipe does: linear layers and the patch projection Xavier-uniform, tokens 0.02.

    Norms and layer scales keep their initial value: one, or timm's own.
    """
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv2d):
            nn.init.xavier_uniform_(part.weight.view(len(part.weight), -1), generator=generator)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
    for name, parameter in module.named_parameters():
        if name.endswith("_token"):
            nn.init.normal_(parameter, std=0.02, generator=generator)


def build_encoder(name: str, image_size: int, generator: torch.Generator) -> VisionTransformer:
    """Make timm's Vision Transformer without a head, with new random weights and a fixed, frozen position table.

    ValueError: an unknown name, an image size that the patches do not divide, an encoder without a position table.
    """
    encoder = build(name, image_size, UNTRAINED).train()
    require(
        isinstance(encoder, VisionTransformer) and encoder.pos_embed is not None,
        f"encoder {name} rotates its tokens by position, as DINOv3 does, or has no position table; it can embed and "
        "be evaluated, but pre-training needs another, such as vit_base_patch16_224",
    )
    initialise(encoder, generator)
    encoder.requires_grad_(True)
    positions = cast(nn.Parameter, encoder.pos_embed)
    prefix = 0 if encoder.no_embed_class else encoder.num_prefix_tokens
    positions.data.copy_(fixed_positions(grid_of(encoder), encoder.embed_dim, prefix))
    positions.requires_grad_(False)
    if encoder.attn_pool is not None:  # belongs to a head that nothing here trains
        encoder.attn_pool.requires_grad_(False)
    return encoder


def grid_of(encoder: VisionTransformer) -> int:
    """How many patches the encoder cuts along a side."""
    return int(cast(Any, encoder.patch_embed).grid_size[0])


def pixel_statistics(encoder: VisionTransformer) -> tuple[Statistics, Statistics]:
    """Mean and standard deviation of the colours, in 0 to 1, for normalising images for this timm model."""
    return statistics_of(encoder)


class Mask(NamedTuple):
    """Which patches of each image are seen."""

    visible_BV: Tensor  # int64, their indices
    masked_BT: Tensor  # bool, true where hidden


def random_mask(noise_BT: Tensor, visible: int) -> Mask:
    """Show the patches with the least noise of each image. Uniform if the noise is."""
    visible_BV = noise_BT.argsort(dim=1, stable=True)[:, :visible]
    return Mask(visible_BV, torch.ones_like(noise_BT, dtype=torch.bool).scatter(1, visible_BV, False))


class Decoder(nn.Module):
    """From the encoder's tokens and the indices of the visible patches to the pixels of every patch."""

    def __init__(self, config: MaeConfig, encoder: VisionTransformer, values: int) -> None:
        super().__init__()
        width, self.prefix = config.decoder_width, encoder.num_prefix_tokens
        positions = fixed_positions(grid_of(encoder), width, self.prefix)
        self.embed = nn.Linear(encoder.embed_dim, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(positions, requires_grad=False)
        blocks = [Block(width, config.decoder_heads, qkv_bias=True) for _ in range(config.decoder_depth)]
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.pred = nn.Linear(width, values)

    def forward(self, tokens_BND: Tensor, visible_BV: Tensor) -> Tensor:
        """Predict [B, T, P] from R + V tokens, the patches in the order of `visible_BV`."""
        tokens_BNE = self.embed(tokens_BND)
        patches = self.pos_embed.shape[1] - self.prefix
        hidden_BTE = self.mask_token.to(tokens_BNE.dtype).expand(len(tokens_BND), patches, -1)
        places = visible_BV[:, :, None].expand(-1, -1, tokens_BNE.shape[2])
        all_BTE = hidden_BTE.scatter(1, places, tokens_BNE[:, self.prefix :])
        decoded = self.blocks(torch.cat([tokens_BNE[:, : self.prefix], all_BTE], dim=1) + self.pos_embed)
        return cast(Tensor, self.pred(self.norm(decoded)[:, self.prefix :]))


class MaskedAutoencoder(nn.Module):
    """`encoder` is plain timm: its state_dict loads there strictly. `decoder` is dropped after pre-training."""

    def __init__(self, config: MaeConfig) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(config.seed)
        self.normalise_pixels = config.normalise_pixels
        self.encoder = build_encoder(config.encoder, config.image_size, generator)
        self.patches = grid_of(self.encoder) ** 2
        self.patch = config.image_size // grid_of(self.encoder)
        self.visible = self.patches - round(self.patches * config.mask_ratio)
        require(
            0 < self.visible < self.patches,
            f"mask_ratio {config.mask_ratio} of {self.patches} patches leaves {self.visible} visible; "
            "use a larger image_size or another mask_ratio",
        )
        with torch.random.fork_rng(devices=[]):
            self.decoder = Decoder(config, self.encoder, 3 * self.patch**2)
        initialise(self.decoder, generator)

    def encode(self, images_BCSS: Tensor, visible_BV: Tensor) -> Tensor:
        """Return timm's features [B, R + V, D] of the visible patches only; the others are never attended to."""
        encoder, prefix = self.encoder, self.encoder.num_prefix_tokens
        tokens_BTD = encoder.patch_embed(images_BCSS).flatten(1, -2)
        positions = cast(Tensor, encoder.pos_embed)
        extra: list[Tensor] = [token for token in (encoder.cls_token, encoder.reg_token) if token is not None]
        prefix_1RD = torch.cat(extra, dim=1) if extra else tokens_BTD.new_zeros(1, 0, encoder.embed_dim)
        if not encoder.no_embed_class:
            prefix_1RD = prefix_1RD + positions[:, :prefix]
            positions = positions[:, prefix:]
        places = visible_BV[:, :, None].expand(-1, -1, encoder.embed_dim)
        seen_BVD = (tokens_BTD + positions).gather(1, places)
        tokens = torch.cat([prefix_1RD.expand(len(seen_BVD), -1, -1), seen_BVD], dim=1)
        return cast(Tensor, encoder.norm(encoder.blocks(encoder.norm_pre(tokens))))

    def predict(self, images_BCSS: Tensor, mask: Mask) -> Tensor:
        """Predict every patch, [B, T, P], from the visible ones."""
        features = self.encode(images_BCSS, mask.visible_BV)
        # An encoder made for mean pooling has its last norm after the pooling; elsewhere fc_norm does nothing.
        return cast(Tensor, self.decoder(self.encoder.fc_norm(features), mask.visible_BV))

    def targets(self, images_BCSS: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what is to be predicted, [B, T, P], and the mean and deviation [B, T, 1] that normalise it."""
        wide = torch.promote_types(images_BCSS.dtype, torch.float32)
        pixels_BTP = patchify(images_BCSS.to(wide), self.patch)
        if not self.normalise_pixels:
            zero = torch.zeros_like(pixels_BTP[:, :, :1])
            return pixels_BTP, zero, zero + 1
        mean, deviation = (
            pixels_BTP.mean(dim=2, keepdim=True),
            (pixels_BTP.var(dim=2, keepdim=True) + VARIANCE_FLOOR).sqrt(),
        )
        return (pixels_BTP - mean) / deviation, mean, deviation

    def errors(self, images_BCSS: Tensor, noise_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Mean squared error of every patch, [B, T], and where patches were masked, bool [B, T]."""
        mask = random_mask(noise_BT, self.visible)
        difference = self.predict(images_BCSS, mask) - self.targets(images_BCSS)[0]
        return difference.square().mean(dim=2), mask.masked_BT

    def forward(self, images_BCSS: Tensor, noise_BT: Tensor) -> Tensor:
        """Return the loss: the mean squared error on masked patches. One sample of noise, one set of masks."""
        error_BT, masked_BT = self.errors(images_BCSS, noise_BT)
        return (error_BT * masked_BT).sum() / (len(error_BT) * (self.patches - self.visible))

    @torch.no_grad()
    def reconstruct(self, images_BCSS: Tensor, noise_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Predicted pixels of every patch, [B, C, S, S] in the units of `images`, and the masks, bool [B, T].

        Where pixels are normalised by patch, each patch's own mean and deviation (unknown to the model) are put back.
        """
        mask = random_mask(noise_BT, self.visible)
        _, mean, deviation = self.targets(images_BCSS)
        return unpatchify(self.predict(images_BCSS, mask) * deviation + mean, self.patch), mask.masked_BT


def decoder_of(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Name the decoder's tensors of a checkpoint, published or ours, as `MaskedAutoencoder` does.

    `prefix` is the encoder's there. Ours are below decoder., as the encoder is below encoder.; published ones are
    decoder_* and mask_token next to the encoder's tensors.
    """
    parent = prefix.removesuffix("encoder.")
    inner = {name.removeprefix(parent): tensor for name, tensor in tensors.items() if name.startswith(parent)}
    result = {name: tensor for name, tensor in inner.items() if name.startswith("decoder.")}
    if any(name.startswith("decoder_") for name in inner):
        for theirs, ours in PUBLISHED.items():
            found = {name: tensor for name, tensor in inner.items() if name.startswith(theirs)}
            result |= {ours + name.removeprefix(theirs): tensor for name, tensor in found.items()}
    return result


class MaeMethod:
    """The training loop's interface of MAE; see training/methods/method.py."""

    compares_images = False

    def __init__(self, config: MaeConfig, augmentation: Augmentation) -> None:
        self.config, self.augmentation = config, augmentation
        self.module = MaskedAutoencoder(config)
        self.encoder = self.module.encoder

    def views(self, images: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        """One crop of each image, normalised as the encoder expects, and the noise that its mask comes from."""
        crops = random_crops(images, self.config.image_size, self.augmentation, generator)
        noise_BT = torch.rand(len(images), self.module.patches, generator=generator, device=generator.device)
        return normalise(crops, *pixel_statistics(self.encoder)), noise_BT.to(images.device)

    def loss(self, model: nn.Module, views: tuple[Tensor, ...]) -> Tensor:
        """Run `model`: the module or its wrapper."""
        return cast(Tensor, model(*views))

    def remaining_tensors(self, tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
        """The decoder's tensors of a checkpoint, published or ours."""
        return decoder_of(tensors, prefix)

    @torch.no_grad()
    def picture(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Side by side the original, the masked (grey) and the reconstructed crop with its visible patches."""
        pixels, noise_BT = self.views(images, generator)
        predicted, masked_BT = self.module.reconstruct(pixels, noise_BT)
        values = 3 * self.module.patch**2
        hidden = unpatchify(masked_BT[:, :, None].expand(-1, -1, values), self.module.patch)
        shown = [
            to_bytes(each, *pixel_statistics(self.encoder)) for each in (pixels, torch.where(hidden, predicted, pixels))
        ]
        return torch.cat([shown[0], shown[0].masked_fill(hidden, 128), shown[1]], dim=3)
