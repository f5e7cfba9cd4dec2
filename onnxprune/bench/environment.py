"""The machine and the software that figures were taken on."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

_GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
_CPUINFO = Path("/proc/cpuinfo")
_QUOTA = Path("/sys/fs/cgroup/cpu.max")


@dataclass(frozen=True)
class Environment:
    """Where figures were taken.

    Attributes:
        cpu: name of the model.
        cores: physical ones; None where that can't be told.
        logical_cores: those that the operating system counts.
        affinity: numbers of the logical cores that processes may use; None where that can't be told.
        quota: logical cores' worth of time that a container may use; None for no limit.
        governor: of the clock of the first core, such as `performance`; empty where that can't be told.
        load: mean number of processes that wanted to run in the minute before; None where that can't be told.
        memory: bytes of physical memory.
        system: operating system and machine.
        python: version.
        onnxruntime: version.
        devices: accelerators by name (needs nvidia-ml-py).
    """

    cpu: str
    cores: int | None
    logical_cores: int
    affinity: list[int] | None
    quota: float | None
    governor: str
    load: float | None
    memory: int
    system: str
    python: str
    onnxruntime: str
    devices: list[str]


def environment() -> Environment:
    """Of this process."""
    import onnxruntime as ort
    import psutil

    process = psutil.Process()
    return Environment(
        cpu=_cpu(),
        cores=psutil.cpu_count(logical=False),
        logical_cores=psutil.cpu_count() or 1,
        affinity=list(process.cpu_affinity()) if hasattr(process, "cpu_affinity") else None,
        quota=_quota(),
        governor=_text(_GOVERNOR).strip(),
        load=round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        memory=int(psutil.virtual_memory().total),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
        onnxruntime=str(ort.__version__),
        devices=_devices(),
    )


def _cpu() -> str:
    for line in _text(_CPUINFO).splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _quota() -> float | None:
    most, _, period = _text(_QUOTA).partition(" ")
    return int(most) / int(period) if most.isdecimal() and period.strip().isdecimal() else None


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""


def _devices() -> list[str]:
    try:
        import pynvml

        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(k) for k in range(pynvml.nvmlDeviceGetCount())]
        names = [pynvml.nvmlDeviceGetName(handle) for handle in handles]
        return [name.decode() if isinstance(name, bytes) else str(name) for name in names]
    except Exception:  # no driver, no device or no bindings: there is nothing to tell
        return []
