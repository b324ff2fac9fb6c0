"""What `--precision auto` stands for on chips of several kinds, and that results are the same with and without VNNI."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from curation.embeddings import nearest, nearest_cpu
from curation.embeddings.vectors import to_unit
from curation.engine import chips
from curation.engine.chips import Chip, chip, resolve_precision

ON_AVX512 = {"avx512_f": True, "avx512_vnni": True}


@pytest.mark.parametrize(
    ("onednn", "has", "allowed", "expected"),
    [
        (False, {}, None, False),  # AVX2
        (True, ON_AVX512, None, False),  # oneDNN answers yes, and emulates
        (True, ON_AVX512 | {"avx512_bf16": True}, None, True),
        (True, ON_AVX512 | {"amx_bf16": True}, None, True),
        (True, {"bf16": True}, None, True),  # Arm
        (True, {"neon": True}, None, False),
        (False, ON_AVX512 | {"avx512_bf16": True}, "AVX2", False),  # what oneDNN answers then
        (True, ON_AVX512 | {"avx512_bf16": True}, "AVX512_CORE", False),  # oneDNN answers yes, and emulates
        (True, ON_AVX512 | {"amx_bf16": True}, "avx512_core_vnni", False),
        (True, ON_AVX512 | {"amx_bf16": True}, "AVX512_CORE_BF16", True),
    ],
)
def test_a_cpu_has_bfloat16_where_its_instructions_multiply_it(
    onednn: bool, has: dict[str, bool], allowed: str | None, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: onednn)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has, raising=False)
    monkeypatch.delenv("DNNL_MAX_CPU_ISA", raising=False)
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    if allowed:
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", allowed)
    assert chip("cpu").bfloat16 is expected
    assert resolve_precision("auto", chip("cpu")) == ("bfloat16" if expected else "float32")


def test_an_older_torch_is_asked_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    monkeypatch.setattr(chips.platform, "machine", lambda: "x86_64")
    for function, expected in (("_is_avx512_bf16_supported", True), ("_is_amx_tile_supported", True), ("", False)):
        for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
            monkeypatch.setattr(torch.cpu, name, lambda answer=name == function: answer, raising=False)
        assert chips.cpu_has_bfloat16() is expected
    monkeypatch.setattr(chips.platform, "machine", lambda: "aarch64")
    assert chips.cpu_has_bfloat16() is True


def test_a_torch_without_onednn_has_no_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace())
    assert chips.cpu_has_bfloat16() is False


def test_a_gpu_that_emulates_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def supported(including_emulation: bool = True) -> bool:
        asked.append(including_emulation)
        return including_emulation

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla V100-SXM2-16GB")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert chip("cuda:0") == Chip("Tesla V100-SXM2-16GB", False)
    assert asked == [False]


def test_one_arithmetic_for_all_chips() -> None:
    with_it, without = Chip("A100", True), Chip("V100", False)
    assert resolve_precision("auto", with_it, with_it) == "bfloat16"
    assert resolve_precision("auto", with_it, without) == "float32"
    assert resolve_precision("auto") == "float32"
    assert resolve_precision("float16", without) == "float16"


def test_a_gpus_absence_is_told_by_the_name_of_the_cpu() -> None:
    assert chip("cpu").name.endswith(("core", "cores"))
    if not torch.cuda.device_count():
        assert chip("cuda") == chip("cpu")


@pytest.mark.parametrize("kind", ["random", "near copies", "copies", "masses of copies", "lattice"])
@pytest.mark.parametrize("storage", ["float16", "float32"])
def test_neighbours_are_the_same_with_and_without_integers(
    kind: str, storage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = np.random.default_rng(3)
    rows = generator.normal(size=(700, 48))
    if kind == "near copies":
        rows = rows[generator.integers(0, 60, 700)] + 0.02 * rows
    elif kind == "copies":
        rows = rows[generator.integers(0, 300, 700)]
    elif kind == "masses of copies":
        rows = rows[generator.integers(0, 3, 700)]
    elif kind == "lattice":
        rows = np.sign(rows[:, :12])
    units = to_unit(rows.astype(np.float32)).astype(storage)
    found = []
    for fast in (True, False):
        monkeypatch.setattr(nearest_cpu, "integers_are_fast", lambda fast=fast: fast)
        coded = nearest.prepare(units)
        both = *nearest.nearest(coded, coded[:512]), *nearest.nearest(coded, coded, before=0)
        found.append((*both, nearest.nearest_index(coded, coded[:300])[3]))
    for with_integers, without in zip(*found, strict=True):
        assert np.array_equal(with_integers, without)
