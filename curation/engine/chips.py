"""A chip's name and arithmetic, and what `--precision auto` stands for. It does not use Ray."""

import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch

Precision = Literal["float32", "bfloat16", "float16"]
BFLOAT16 = ("avx512_bf16", "amx_bf16", "bf16")  # of x86, of Arm: instructions that multiply bfloat16
LESSER_ISA = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI")  # without them


@dataclass(frozen=True, order=True)
class Chip:
    """A device's name as a person knows it, and whether it multiplies bfloat16 itself and faster than float32."""

    name: str
    bfloat16: bool


def chip(device: str = "cpu") -> Chip:
    """The chip of this process: `cpu`, or `cuda`, where there is no such device the CPU."""
    if device.startswith("cuda") and torch.cuda.device_count():
        # Below compute capability 8.0 (V100, T4) bfloat16 is emulated.
        return Chip(torch.cuda.get_device_name(), bool(torch.cuda.is_bf16_supported(including_emulation=False)))
    cores = os.cpu_count() or 1
    instructions = torch.backends.cpu.get_cpu_capability().lower()
    return Chip(f"{cpu_name()}, {instructions}, {cores} core{'s' if cores > 1 else ''}", cpu_has_bfloat16())


def cpu_has_bfloat16() -> bool:
    """Whether oneDNN multiplies bfloat16 by instructions of this CPU, and may use them (ONEDNN_MAX_CPU_ISA).

    oneDNN itself answers yes on any CPU with AVX-512, and emulates: slower than float32, and less exact.
    """
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)  # builds without oneDNN lack it
    if supported is None or not supported():
        return False
    allowed = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or "ALL"
    return allowed.upper() not in LESSER_ISA and any(capabilities().get(name) for name in BFLOAT16)


def capabilities() -> Mapping[str, Any]:
    """What torch reports of this CPU, by torch's names."""
    if known := getattr(torch.cpu, "get_capabilities", None):
        return cast(Mapping[str, Any], known())
    functions = {"avx512_bf16": "_is_avx512_bf16_supported", "amx_bf16": "_is_amx_tile_supported"}
    found = {name: bool(getattr(torch.cpu, function, lambda: False)()) for name, function in functions.items()}
    arm = platform.machine().lower() in ("aarch64", "arm64")  # there oneDNN's own answer is the CPU's
    return found | {"bf16": arm}


def cpu_name() -> str:
    """The CPU's model as the system reports it, else its architecture."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()


def resolve_precision(requested: str, *chips: Chip) -> Precision:
    """The arithmetic that `auto` stands for: bfloat16 where all these chips have it, else float32."""
    if requested == "auto":
        return "bfloat16" if chips and all(each.bfloat16 for each in chips) else "float32"
    return cast(Precision, requested)
