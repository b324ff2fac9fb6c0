"""Weights files in common layouts, fitted to a timm Vision Transformer by stated rules. It is independent of frames.

1. Dictionaries in dictionaries are one list of names, joined by dots. Names that wrappers add (torch.compile, FSDP) and
   the chunks that DINOv2 cuts its blocks into are taken out.
2. The encoder is under the prefix where most of its tensors are, the patch projection among them. Of equals a moving
   average or teacher goes before all others, a student or momentum encoder after them; then the shortest, then the
   first by name. Where no prefix holds a patch projection, timm's own conversions (CLIP and others) are tried.
3. What has another name elsewhere is renamed: register tokens, layer scales, the last norm (`fc_norm` stands for `norm`
   where only the other one is in the file). What is absent and has a neutral value gets it: the bias of all qkv layers
   is 0, the position of a class token 0. A position that the encoder keeps no row for is added to its token.
4. A position table of another square grid is resampled as timm does; one that is not square is refused.
5. Nothing of the encoder may be missing or of another shape, and no part that shapes its function (blocks, tokens,
   patches, positions) may be left over. All else is dropped, and named.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import timm
import torch
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.models import eva, vision_transformer
from torch import Tensor, nn

from curation.embeddings.checkpoints import Checkpoint

Tensors = dict[str, Tensor]

PATCHES = "patch_embed.proj.weight"
FAMILIES = ("vision_transformer", "eva")  # timm's modules; DINOv3 is in the second
WRAPPERS = re.compile(r"(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module)\.")
CHUNKS = re.compile(r"(^|\.)blocks\.\d+\.(\d+)\.")
FIRST = re.compile(r"(?:^|[._])(?:ema|teacher|average|averaged|target_encoder)(?:[._]|$)")
LAST = re.compile(r"(?:^|[._])(?:student|momentum)(?:[._]|$)")
SHAPING = ("blocks.", "patch_embed.", "norm_pre.", "pos_embed", "cls_token", "reg_token", "dist_token")
RENAMED = (
    (re.compile(r"^(?:register_tokens|storage_tokens)$"), "reg_token"),
    (re.compile(r"\.mlp\.w12\."), ".mlp.fc1."),
    (re.compile(r"\.mlp\.w3\."), ".mlp.fc2."),
    (re.compile(r"^patch_embed\.projection\."), "patch_embed.proj."),
)
WITHOUT_EFFECT = re.compile(r"(?:^|\.)(?:attn\.qkv\.bias_mask|rope_embed\.periods|attn\.relative_position_index)$")
WIDTH_NAMES = {192: "tiny", 384: "small", 768: "base", 1024: "large", 1280: "huge"}
MAX_SHOWN = 3
MAX_DROPPED = 8  # groups of dropped tensors that are named
UNFIT = (RuntimeError, KeyError, AttributeError, AssertionError, ValueError, TypeError, IndexError)


@dataclass(frozen=True)
class Fit:
    """Tensors for an encoder, by its own names; where they were found, and what was dropped: groups and counts."""

    tensors: Tensors
    prefix: str
    dropped: tuple[tuple[str, int], ...]

    def note(self) -> str:
        """Return the encoder's prefix and what was dropped, in words; empty where there is neither."""
        parts = [f"found under {self.prefix!r}"] if self.prefix else []
        groups = [f"{name} ({count})" for name, count in self.dropped]
        more = f" and {len(groups) - MAX_DROPPED} more" if len(groups) > MAX_DROPPED else ""
        parts += [f"dropped {', '.join(groups[:MAX_DROPPED])}{more}"] if groups else []
        return "; ".join(parts)


def plain(name: str) -> str:
    """Return a tensor's name without wrappers and chunks."""
    return CHUNKS.sub(r"\1blocks.\2.", WRAPPERS.sub("", name))


def prefixes(names: Iterable[str], expected: Iterable[str]) -> list[tuple[str, int]]:
    """Return the prefixes that hold a patch projection and how many expected names each holds, the best first."""
    there, needed = set(names), list(expected)
    found = {name.removesuffix(PATCHES) for name in there if name == PATCHES or name.endswith(f".{PATCHES}")}
    counted = [(prefix, sum(prefix + name in there for name in needed)) for prefix in found]

    def order(one: tuple[str, int]) -> tuple[int, int, int, str]:
        prefix, hits = one
        turn = 0 if FIRST.search(prefix) else 2 if LAST.search(prefix) else 1
        return -hits, turn, len(prefix), prefix

    return sorted(counted, key=order)


def fit_weights(checkpoint: Checkpoint, model: nn.Module, encoder: str) -> Fit:
    """Return the tensors of `checkpoint` for `model`, timm's `encoder`, in its names and shapes, float32 or as stored.

    ValueError, with the prefixes seen, what is missing or left over, and encoders of the shape that was found.
    """
    expected = model.state_dict()
    tensors = {plain(name): tensor for name, tensor in checkpoint.tensors.items()}
    found = prefixes(tensors, expected)
    prefix = found[0][0] if found else ""
    if not found:
        fitted = converted_by_timm(tensors, model)
        left = {name: 1 for name in tensors if fitted is None}
    else:
        inner = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        fitted = adapted(inner, expected, model)
        left = {prefix + name: 1 for name in fitted.keys() - expected.keys()}
        left |= {name: 1 for name in tensors if not name.startswith(prefix)}
    faults = misfits(fitted or {}, expected)
    if faults or fitted is None:
        raise ValueError(
            f"weights {checkpoint.path} do not fit {encoder}: {'; '.join(faults)}; "
            f"{contents(tensors, found, expected)} "
            "Name the encoder they were trained as with --encoder (with --name where weights are evaluated)"
        )
    return Fit({name: fitted[name] for name in expected}, prefix, groups(left, prefix))


def converted_by_timm(tensors: Tensors, model: nn.Module) -> Tensors | None:
    """Return what timm's own conversions make of the tensors, or None where they are not for these."""
    module: Any = eva if isinstance(model, eva.Eva) else vision_transformer
    try:
        made: Tensors = module.checkpoint_filter_fn(dict(tensors), model)
    except UNFIT:
        return None
    return {name: tensor for name, tensor in made.items() if name in model.state_dict()}


def adapted(inner: Tensors, expected: Mapping[str, Tensor], model: nn.Module) -> Tensors:
    """Return the tensors under the prefix in timm's names; see the third and fourth rule."""
    result: Tensors = {}
    for name, tensor in inner.items():
        for pattern, replacement in RENAMED:
            name = pattern.sub(replacement, name)  # noqa: PLW2901
        if "blocks.0.gamma_1" in expected:
            name = re.sub(r"\.ls([12])\.gamma$", r".gamma_\1", name)  # noqa: PLW2901
        elif "blocks.0.ls1.gamma" in expected:
            name = re.sub(r"\.gamma_([12])$", r".ls\1.gamma", name)  # noqa: PLW2901
        if not WITHOUT_EFFECT.search(name):
            result[name] = tensor
    for mine, other in (("norm", "fc_norm"), ("fc_norm", "norm")):
        for part in ("weight", "bias"):
            if f"{mine}.{part}" in expected and f"{mine}.{part}" not in result and f"{other}.{part}" in result:
                result[f"{mine}.{part}"] = result.pop(f"{other}.{part}")
    biases(result, expected)
    if PATCHES in expected and result[PATCHES].ndim == 2 and result[PATCHES].numel() == expected[PATCHES].numel():
        result[PATCHES] = result[PATCHES].reshape(expected[PATCHES].shape)
    if "pos_embed" in expected and "pos_embed" in result and result["pos_embed"].ndim == 3:
        positions(result, expected, model)
    return result


def biases(result: Tensors, expected: Mapping[str, Tensor]) -> None:
    """Bring the biases of qkv to the encoder's layout: zero where no layer has one, in parts where it keeps those."""
    suffix = ".attn.qkv.bias"
    names = [name for name in result if name.endswith(suffix)]
    if not names:
        zero = {name: torch.zeros_like(each) for name, each in expected.items() if name.endswith(suffix)}
        result |= {name: tensor for name, tensor in zero.items() if name.replace("bias", "weight") in result}
    for name in names:
        query, _, value = result[name].chunk(3)  # DINOv3 has no bias of the keys
        parts = {name.replace("qkv.bias", "q_bias"): query, name.replace("qkv.bias", "v_bias"): value}
        if parts.keys() <= expected.keys():
            del result[name]
            result |= parts
        elif name not in expected and not query.any() and not value.any():
            del result[name]


def positions(result: Tensors, expected: Mapping[str, Tensor], model: Any) -> None:
    """Bring the position table, and the tokens whose positions have no row, to what the encoder keeps."""
    table, rows = result["pos_embed"], expected["pos_embed"].shape[1]
    grid = model.patch_embed.grid_size
    own = rows - math.prod(grid)  # rows of tokens that are not patches
    extra = [name for name in ("cls_token", "reg_token") if name in result]
    tokens = sum(result[name].shape[1] for name in extra)
    has_class = int("cls_token" in result)
    tries = dict.fromkeys((own, tokens, has_class, 0))
    prefix = next((one for one in tries if is_square(table.shape[1] - one)), None)
    if prefix is None or prefix not in (own, has_class, 0):
        return  # its shape is reported as a misfit
    head, patches = table[:, :prefix], table[:, prefix:]
    if own == 0 and prefix == 1:  # the class token's position, which the encoder adds nowhere
        result["cls_token"] = result["cls_token"] + head.to(result["cls_token"].dtype)
    if own not in (prefix, 0) and prefix in (0, has_class):  # tokens after it had no position
        head = torch.cat([head, head.new_zeros(1, own - prefix, head.shape[2])], dim=1)
    old = math.isqrt(patches.shape[1])
    if (old, old) != tuple(grid):
        patches = resample_abs_pos_embed(patches.float(), new_size=grid, old_size=(old, old), num_prefix_tokens=0)
    result["pos_embed"] = patches if own == 0 else torch.cat([head.to(patches.dtype), patches], dim=1)


def is_square(number: int) -> bool:
    """Whether a number is a square above 0."""
    return number > 0 and math.isqrt(number) ** 2 == number


def misfits(fitted: Tensors, expected: Mapping[str, Tensor]) -> list[str]:
    """Return what keeps tensors from being the encoder's, each as words."""
    missing = sorted(expected.keys() - fitted.keys())
    shapes = [
        f"{name} is {tuple(fitted[name].shape)}, expected {tuple(expected[name].shape)}"
        for name in sorted(expected.keys() & fitted.keys())
        if fitted[name].shape != expected[name].shape
    ]
    over = sorted(name for name in fitted.keys() - expected.keys() if name.startswith(SHAPING))
    faults = []
    if missing or shapes:
        faults.append(f"{len(missing)} tensors missing ({', '.join(missing[:MAX_SHOWN])})")
        faults.append(f"{len(shapes)} of another shape ({'; '.join(shapes[:MAX_SHOWN])})")
    if over:
        faults.append(f"{len(over)} that this encoder does not have ({', '.join(over[:MAX_SHOWN])})")
    return [", ".join(faults)] if faults else []


def groups(left: Iterable[str], prefix: str) -> tuple[tuple[str, int], ...]:
    """Return the names left over, by the part that they share, and their counts."""
    depth = prefix.count(".")

    def group(name: str) -> str:
        parts = name.split(".")
        return ".".join(parts[: depth + 1]) if prefix and name.startswith(prefix) else parts[0]

    return tuple(sorted(Counter(group(name) for name in left).items()))


def contents(tensors: Tensors, found: list[tuple[str, int]], expected: Mapping[str, Tensor]) -> str:
    """Return what a file holds, as a sentence: the prefixes and the shape of the encoder that is there."""
    if not found:
        top = ", ".join(f"{name} ({count})" for name, count in groups(tensors, "")[:MAX_DROPPED])
        hint = ""
        if any("embeddings.patch_embeddings" in name for name in tensors):
            hint = " These are names of the transformers library: convert them, or take timm's weights of the model."
        return f"no prefix holds {PATCHES}; found {top}.{hint}"
    counts = ", ".join(f"{prefix or '(none)'!r} {hits} of {len(expected)}" for prefix, hits in found[:MAX_SHOWN])
    prefix = found[0][0]
    width, patch = tensors[prefix + PATCHES].shape[0], tensors[prefix + PATCHES].shape[-1]
    depth = len({name.split(".")[1] for n in tensors if (name := n.removeprefix(prefix)).startswith("blocks.")})
    near = similar_encoders(width, patch, {name.removeprefix(prefix) for name in tensors if name.startswith(prefix)})
    guess = f", as {', '.join(near)}" if near else ""
    return f"prefixes seen: {counts}. The file has width {width}, {depth} blocks and patches of {patch}{guess}."


def similar_encoders(width: int, patch: int, names: set[str]) -> list[str]:
    """Return names of timm's encoders of a width and patch, those first that have registers and layer scales alike."""
    pattern = f"vit_{WIDTH_NAMES.get(width, '?')}_patch{patch}_*"
    known = [name for family in FAMILIES for name in timm.list_models(pattern, module=family)]
    registers = bool(names & {"reg_token", "register_tokens", "storage_tokens"})
    scaled = any(name.endswith((".ls1.gamma", ".gamma_1")) for name in names)
    table = "pos_embed" in names

    def order(name: str) -> tuple[bool, bool, bool, int, str]:
        tokens = "_reg" in name or "dinov3" in name
        return "dinov3" in name and table, tokens != registers, ("dino" in name) != scaled, len(name), name

    return sorted(known, key=order)[:MAX_SHOWN]
