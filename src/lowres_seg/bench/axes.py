"""Instruction sets and workloads: two of the axes along which a bundle is measured."""

from __future__ import annotations

from typing import Literal

Isa = Literal["native", "avx2", "avx2-vnni", "avx512", "avx512-vnni"]
Workload = Literal["network", "end-to-end", "throughput"]
#: Meaning of each workload, for people.
WORKLOADS: dict[Workload, str] = {
    "network": "the networks alone",
    "end-to-end": "from the scan's file to the mask's file",
    "throughput": "volumes a second, as many in flight as cores",
}
#: Value of ONEDNN_MAX_CPU_ISA for each instruction set, and the CPU flags that the host must have.
ISA_LIMITS: dict[Isa, tuple[str, tuple[str, ...]]] = {
    "native": ("", ()),
    "avx2": ("AVX2", ("avx2",)),
    "avx2-vnni": ("AVX2_VNNI", ("avx2",)),
    "avx512": ("AVX512_CORE", ("avx512f",)),
    "avx512-vnni": ("AVX512_CORE_VNNI", ("avx512_vnni",)),
}
