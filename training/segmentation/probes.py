"""Probes of frozen patch tokens: linear and nearest-neighbour segmentation in seconds, and classifying sources.

It knows no encoder, no data set, no metric of segmentation and no fine-tuning.

Legend: N images of T = G * G patches, D values per token; S side of the encoder's input, S0 of images and masks; K
outputs: background and the classes; M tokens in memory, Q queries.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from curation.embeddings.vectors import as_tensor
from curation.options import require
from training.datasets.codings import IGNORED, UInt8, highest_class
from training.segmentation.tokens import grid_side

CALIBRATION_TOKENS = 2000  # remembered tokens whose votes calibrate the others
SIMILARITIES = 2**24  # held at once by the nearest-neighbour probe: 64 MiB


def patch_shares(masks: UInt8, grid: int, outputs: int) -> Tensor:
    """Return the exact share of each patch that each class covers, float32 [N, T, K], of masks [N, S0, S0].

    The patches are a grid of G * G; where their borders cut pixels, pixels count in part. IGNORED pixels
    are left out; shares are all 0 where a patch has no others.
    """
    side = masks.shape[1]
    edges = torch.arange(grid + 1) * (side / grid)
    first, pixel = edges[:-1, None], torch.arange(side)
    cover = (torch.minimum(edges[1:, None], pixel + 1.0) - torch.maximum(first, pixel.float())).clamp(min=0)
    cover_GS = cover * (grid / side)
    shares = [
        torch.stack([cover_GS @ as_tensor(mask == output).float() @ cover_GS.T for output in range(outputs)], dim=-1)
        for mask in masks
    ]
    shares_NTK = torch.stack(shares).flatten(1, 2)
    if not (masks == IGNORED).any():
        return shares_NTK
    total = shares_NTK.sum(dim=2, keepdim=True)
    return torch.where(total > 1e-6, shares_NTK / total.clamp(min=1e-6), 0.0)


def shares_to_masks(shares_NTK: Tensor, side: int, batch: int = 64) -> UInt8:
    """Return masks uint8 [N, side, side]: shares of patches upsampled bilinearly, and the class with the largest."""
    grid, pieces = grid_side(shares_NTK), []
    for piece in torch.split(shares_NTK, batch):
        laid = piece.transpose(1, 2).reshape(len(piece), -1, grid, grid)
        finer = functional.interpolate(laid, size=(side, side), mode="bilinear", align_corners=False)
        pieces.append(finer.argmax(dim=1).to(torch.uint8).cpu())
    return torch.cat(pieces).numpy()


def calibrated(found_NTK: Tensor, known_MK: Tensor, truth_MK: Tensor) -> Tensor:
    """Return predicted shares [N, T, K] as scores: a class counts where its score is above the background's, 0.

    A fitted share rarely passes one half where a lesion is rare. So a class counts from that lead over all others at
    which predictions `known_MK` of training patches have the highest Dice with their true shares `truth_MK` (halfway
    between the two patches that it separates).
    """
    scores = torch.zeros_like(found_NTK)
    for output in range(1, found_NTK.shape[2]):
        leads, order = margin(known_MK, output).sort(descending=True, stable=True)
        truth = truth_MK[order, output]
        dice = 2 * truth.cumsum(0) / (torch.arange(1, len(truth) + 1, device=truth.device) + truth.sum())
        last = int(dice.argmax())
        scores[..., output] = margin(found_NTK, output) - leads[last : last + 2].mean()
    return scores


def margin(shares: Tensor, output: int) -> Tensor:
    """The lead of one class over the best of the others, over the last axis."""
    others = [column for column in range(shares.shape[-1]) if column != output]
    return shares[..., output] - shares[..., others].amax(dim=-1)


def linear_probe(train_NTD: Tensor, masks: UInt8, test_NTD: Tensor, side: int, ridge: float = 1e-3) -> UInt8:
    """Segment by a linear layer from a token to its patch's class shares; masks uint8 [N', side, side] of the test.

    Ridge regression in closed form, in float64, image by image: N T D^2 multiplications. The bias is not penalised;
    the penalty is `ridge` times the mean variance of a token's values, times the number of tokens. Shares are
    calibrated.
    """
    outputs = _check_training(train_NTD, masks)
    shares = patch_shares(masks, grid_side(train_NTD), outputs).to(train_NTD.device, torch.float64)
    labelled_NT = shares.sum(dim=2) > 0  # patches that are not ignored
    mean, middle = train_NTD.double()[labelled_NT].mean(dim=0), shares[labelled_NT].mean(dim=0)
    gram = torch.zeros(len(mean), len(mean), dtype=torch.float64, device=mean.device)
    cross = torch.zeros(len(mean), outputs, dtype=torch.float64, device=mean.device)
    for tokens_TD, share_TK, labelled_T in zip(train_NTD, shares, labelled_NT, strict=True):
        centred = tokens_TD[labelled_T].double() - mean
        gram += centred.T @ centred
        cross += centred.T @ (share_TK[labelled_T] - middle)
    gram.diagonal().add_(ridge * gram.diagonal().mean())
    weights = torch.linalg.pinv(gram, hermitian=True) @ cross
    known, found = (
        torch.stack([(tokens_TD.double() - mean) @ weights + middle for tokens_TD in tokens])
        for tokens in (train_NTD, test_NTD)
    )
    return shares_to_masks(calibrated(found, known[labelled_NT], shares[labelled_NT]).float(), side)


def neighbour_probe(
    train_NTD: Tensor, masks: UInt8, test_NTD: Tensor, side: int, *, k: int = 20, memory: int = 20000
) -> UInt8:
    """Segment by the k nearest tokens of the training images; masks uint8 [N', side, side] of the test.

    Nearest by cosine; a neighbour votes with its patch's class shares, weighted by exp(cosine / 0.1). At most `memory`
    tokens are remembered, drawn by a fixed seed: the cost is Q M D multiplications, in blocks of bounded memory. Shares
    are calibrated by the votes that the first remembered tokens get from the others.
    """
    outputs = _check_training(train_NTD, masks)
    require(k >= 1 and memory >= 1, f"k is {k} and memory {memory}; both must be at least 1")
    shares_MK = patch_shares(masks, grid_side(train_NTD), outputs).flatten(0, 1)
    labelled = (shares_MK.sum(dim=1) > 0).nonzero()[:, 0]  # patches that are not ignored
    kept = labelled[torch.randperm(len(labelled), generator=torch.Generator().manual_seed(0))[:memory]]
    shares_MK = shares_MK[kept].to(train_NTD.device)
    tokens_MD = functional.normalize(train_NTD.flatten(0, 1)[kept.to(train_NTD.device)].float(), dim=1)
    found = _votes(test_NTD.flatten(0, 1), tokens_MD, shares_MK, k, exclude_self=False)
    known = _votes(tokens_MD[:CALIBRATION_TOKENS], tokens_MD, shares_MK, k, exclude_self=True)
    laid = found.reshape(*test_NTD.shape[:2], outputs)
    return shares_to_masks(calibrated(laid, known, shares_MK[:CALIBRATION_TOKENS]), side)


def _votes(queries_QD: Tensor, tokens_MD: Tensor, shares_MK: Tensor, k: int, *, exclude_self: bool) -> Tensor:
    """Return the votes [Q, K] of the k nearest remembered tokens; `exclude_self`: queries are the first Q of them."""
    votes, start = [], 0
    for tokens_QD in torch.split(queries_QD, max(1, SIMILARITIES // len(tokens_MD))):
        cosines_QM = functional.normalize(tokens_QD.float(), dim=1) @ tokens_MD.T
        if exclude_self and len(tokens_MD) > 1:
            own = torch.arange(len(tokens_QD), device=cosines_QM.device)
            cosines_QM[own, start + own] = -torch.inf
        nearest, places = cosines_QM.topk(min(k, len(tokens_MD)), dim=1)
        votes.append(torch.einsum("qk,qkc->qc", (nearest / 0.1).softmax(dim=1), shares_MK[places]))
        start += len(tokens_QD)
    return torch.cat(votes)


def _check_training(tokens_NTD: Tensor, masks: UInt8) -> int:
    """Return the number of outputs. ValueError where tokens and masks do not match, or show no lesion."""
    require(
        len(tokens_NTD) == len(masks) and masks.ndim == 3 and masks.shape[1] == masks.shape[2],
        f"tokens of {len(tokens_NTD)} images with masks {masks.shape}; pass one square mask per image",
    )
    highest = highest_class(masks)
    require(highest > 0, f"no lesion pixel in {len(masks)} training masks; check how they are coded (0: background)")
    return highest + 1


def source_probe(
    features_ND: npt.NDArray[np.floating],
    labels_N: npt.NDArray[Any],
    train: npt.NDArray[np.int64],
    validation: npt.NDArray[np.int64],
    penalty: float = 1e-3,
) -> float:
    """Return the balanced accuracy on `validation` of a linear classifier of features: chance is 1 / classes.

    Logistic regression (LBFGS, float64) on standardised features, each class of equal weight, with `penalty` times the
    squared weights. Labels may be strings. ValueError: rows in both parts, or fewer than two classes in training.
    """
    require(
        len(features_ND) == len(labels_N) and len(np.intersect1d(train, validation)) == 0 and len(validation) > 0,
        f"{len(features_ND)} features, {len(labels_N)} labels, {len(np.intersect1d(train, validation))} rows in both "
        f"parts and {len(validation)} to validate; pass one label per row, and parts without a common row",
    )
    names, places = np.unique(labels_N, return_inverse=True)
    known, counts = np.unique(places[train], return_counts=True)
    require(len(known) >= 2, f"training rows show {len(known)} of the classes; at least two are needed")
    rows = torch.from_numpy(np.asarray(features_ND, dtype=np.float64))
    center, width = rows[train].mean(dim=0), rows[train].std(dim=0, correction=0)
    rows = (rows - center) / width.where(width > 0, 1.0)
    target = torch.from_numpy(places[train])
    weight_K = torch.zeros(len(names), dtype=torch.float64)
    weight_K[known] = torch.from_numpy(len(train) / (len(known) * counts))
    layer = torch.zeros(rows.shape[1] + 1, len(names), dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS([layer], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        solver.zero_grad()
        value = functional.cross_entropy(rows[train] @ layer[:-1] + layer[-1], target, weight_K)
        value = value + penalty * layer[:-1].square().sum()
        torch.autograd.backward(value)
        return value

    solver.step(loss)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        found = (rows[validation] @ layer[:-1] + layer[-1]).argmax(dim=1).numpy()
    truth = places[validation]
    return float(np.mean([(found[truth == label] == label).mean() for label in np.unique(truth)]))
