"""The axes along which a bundle is measured: backend, instruction set, and workload."""

from __future__ import annotations

from typing import Literal

Backend = Literal["openvino", "openvino-plain", "onnxruntime", "torch", "torch-compile"]
Isa = Literal["native", "avx2", "avx2-vnni", "avx512", "avx512-vnni"]
What = Literal["network", "end-to-end", "throughput"]
#: Value of ONEDNN_MAX_CPU_ISA for each instruction set, and the CPU flags that the host must have.
ISA_LIMITS: dict[Isa, tuple[str, tuple[str, ...]]] = {
    "native": ("", ()),
    "avx2": ("AVX2", ("avx2",)),
    "avx2-vnni": ("AVX2_VNNI", ("avx2",)),
    "avx512": ("AVX512_CORE", ("avx512f",)),
    "avx512-vnni": ("AVX512_CORE_VNNI", ("avx512_vnni",)),
}
