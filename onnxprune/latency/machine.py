"""What a measured time depends on besides the model: the machine and how ONNX Runtime uses it."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxprune.statistics.providers import CPU, Providers

_FORMAT = 1  # of what is kept; counts up where a time comes to mean something else


@dataclass(frozen=True)
class Runtime:
    """How ONNX Runtime is to run the models that are timed.

    Attributes:
        providers: in order of preference.
        threads: of one operator; 0 leaves it to ONNX Runtime.
    """

    providers: Providers = CPU
    threads: int = 0

    @property
    def device(self) -> tuple[str, int] | None:
        """Where tensors stay between runs; None on the CPU."""
        return None if self.providers.device[0] == "cpu" else self.providers.device

    def fingerprint(self) -> dict[str, Any]:
        """What times of this runtime on this machine have in common, as plain data."""
        import onnxruntime as ort

        return {
            "format": _FORMAT,
            "processor": _processor(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "system": f"{platform.system()} {platform.machine()}",
            "onnxruntime": ort.__version__,
            "build": ort.get_build_info(),
            "providers": [[name, list(map(list, options))] for name, options in self.providers.chosen],
            "device": _device(self.providers),
            "threads": self.threads,
        }

    def name(self) -> str:
        """A hash of the fingerprint, for a file name."""
        return hashlib.sha256(json.dumps(self.fingerprint(), sort_keys=True).encode()).hexdigest()[:16]


def _processor() -> str:
    """Model and instruction sets; two machines of one model may differ in what a hypervisor lets through."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    found: dict[str, str] = {}
    for line in lines:
        key, _, value = line.partition(":")
        found.setdefault(key.strip(), value.strip())
    flags = hashlib.sha256(" ".join(sorted(found.get("flags", found.get("Features", "")).split())).encode())
    return f"{found.get('model name', platform.machine())} {flags.hexdigest()[:8]}"


def _device(providers: Providers) -> str:
    """Name of the accelerator; empty on the CPU or where nobody tells."""
    if providers.device[0] == "cpu":
        return ""
    import subprocess

    try:
        query = ["nvidia-smi", f"--id={providers.device[1]}", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        return subprocess.run(query, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return f"{providers.device[0]}:{providers.device[1]}"
