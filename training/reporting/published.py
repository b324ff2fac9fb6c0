"""Table 3 of the benchmark's paper as reference data, and nothing else: mIoU and NormDEL by data set and ratio.

Source: Yang, Tan, Sun, Yan, "A Medical Data-Effective Learning Benchmark for Highly Efficient Pre-training of
Foundation Models", arXiv 2401.17542. ViT-Base pre-trained with MAE on MedDEL's subsets of a pool of 88,282 frames,
equal compute; splits, seeds and the definition of mIoU are not published. Values are percent, as printed there.
"""

SOURCE = "arXiv 2401.17542, table 3"
RATIOS = (0.05, 0.10, 0.20, 0.33, 0.50, 1.00)  # nominal; the paper calls 0.33 "30 %" in places
PUBLISHED_IMAGES = (4_461, 9_055, 16_789, 28_352, 43_484, 88_282)
PRETRAIN_EPOCHS = (4_000, 2_000, 1_000, 600, 400, 200)
D = (0.7, 0.75, 0.8, 0.85, 0.9, 1.0)  # MedDEL's duplicate threshold, at epsilon 0.9

MIOU = {
    "kvasir-instrument": (79.38, 79.52, 80.22, 80.38, 80.48, 79.70),
    "kvasir-seg": (75.45, 75.74, 76.37, 76.03, 76.77, 76.02),
    "imageclefmed": (70.95, 71.80, 71.44, 72.58, 71.23, 72.02),
    "etis": (47.50, 49.44, 50.20, 50.28, 49.62, 49.13),
    "polypgen2021": (60.93, 61.61, 61.47, 62.28, 62.20, 60.89),
    "cvc-300": (63.67, 56.69, 61.40, 62.85, 61.97, 61.16),
    "cvc-clinicdb": (75.24, 74.58, 75.27, 75.50, 75.49, 74.95),
    "cvc-colondb": (69.52, 68.58, 69.90, 71.60, 69.72, 69.48),
}
NORMDEL = {
    "kvasir-instrument": (68.03, 67.25, 65.85, 64.06, 61.97, 57.28),
    "kvasir-seg": (67.21, 66.49, 65.14, 63.33, 61.43, 56.95),
    "imageclefmed": (66.26, 65.69, 64.22, 62.76, 60.64, 56.59),
    "etis": (61.11, 61.00, 60.13, 58.94, 57.47, 54.51),
    "polypgen2021": (64.10, 63.59, 62.32, 61.01, 59.32, 55.58),
    "cvc-300": (64.69, 62.55, 62.31, 61.11, 59.29, 55.60),
    "cvc-clinicdb": (67.16, 66.26, 64.94, 63.25, 61.25, 56.85),
    "cvc-colondb": (65.96, 65.03, 63.93, 62.59, 60.42, 56.36),
}
ALIASES = {
    "etis-larib": "etis",
    "etis-laribpolypdb": "etis",
    "polypgen": "polypgen2021",
    "medvqa-gi": "imageclefmed",
}


def published(dataset: str, ratio: float) -> tuple[float, float] | None:
    """Return the paper's mIoU and NormDEL in percent for a data set and a nominal ratio; None where it has none."""
    name = ALIASES.get(dataset.lower(), dataset.lower())
    if name not in MIOU or ratio not in RATIOS:
        return None
    place = RATIOS.index(ratio)
    return MIOU[name][place], NORMDEL[name][place]
