"""A session with its inputs at hand, ready to be timed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.bench.timing import Floats
from onnxprune.errors import ModelError, UsageError
from onnxprune.statistics.providers import CPU, Providers

if TYPE_CHECKING:
    import onnxruntime as ort

Feeds = Mapping[str, NDArray[Any]]


def open_optimized(
    model: Path | bytes,
    name: str,
    *,
    providers: Providers = CPU,
    threads: int = 0,
    spin: bool = True,
    profile: str = "",
) -> ort.InferenceSession:
    """A session with all optimizations, as a user would open it.

    Args:
        model: a file or its bytes.
        name: of the model, for errors.
        providers: that it runs on.
        threads: of one operator; 0 leaves it to ONNX Runtime.
        spin: idle threads go on spinning for a while, as they do by default. Where sessions of one process take turns, those
            of one would take the cores from the next one's turn.
        profile: file to write ONNX Runtime's profile to; its name gets an ending.

    Raises:
        ModelError: ONNX Runtime refuses the model.
        UsageError: a provider did not start.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    if not spin:
        options.add_session_config_entry("session.force_spinning_stop", "1")
    if profile:
        options.enable_profiling = True
        options.profile_file_prefix = profile
    try:
        return providers.open(str(model) if isinstance(model, Path) else model, options)
    except UsageError:
        raise
    except Exception as error:
        raise ModelError(f"{name}: ONNX Runtime can't load it ({_said(error)})") from error


class ReadySession:
    """A `Subject`: a session and the inputs of one run.

    On a device, inputs and outputs stay there (IOBinding), at the same addresses in every run: what is timed is the
    computation; `transfers` times what is left out.

    Args:
        session: of the model.
        name: of the model, for errors.
        feeds: inputs; those that the model does not have are left out.
        device: kind and number where tensors are to stay, such as `("cuda", 0)`; None for arrays of numpy, as
            `session.run` takes and returns them.
    """

    def __init__(
        self, session: ort.InferenceSession, name: str, feeds: Feeds, device: tuple[str, int] | None = None
    ) -> None:
        self.name = name
        self.session = session
        self.device = device
        self.feeds = {i.name: feeds[i.name] for i in session.get_inputs() if i.name in feeds}
        self.run: Callable[[], Any] = partial(session.run, None, self.feeds)
        if device is not None:
            self.run = self._guarded(self._bound, device)

    def first(self) -> float:
        """One run, with its duration in ms: the first one allocates memory and may choose kernels."""
        return float(self.burst(1)[0])

    def burst(self, runs: int) -> Floats:
        """Runs in a row; the duration of each in ms `(runs,)`.

        Raises:
            ModelError: ONNX Runtime can't run it.
        """
        found: Floats = self._guarded(_burst, self.run, runs)
        return found

    def transfers(self, repeats: int = 20) -> tuple[float, float] | None:
        """Median ms in which inputs come onto the device, and outputs back; None where there is none."""
        return None if self.device is None else self._guarded(self._transfers, self.device, repeats)

    def _bound(self, device: tuple[str, int]) -> Callable[[], Any]:
        import onnxruntime as ort

        binding = self.session.io_binding()
        for name, array in self.feeds.items():
            binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array, *device))
        for output in self.session.get_outputs():
            binding.bind_output(output.name, *device)
        self.binding = binding
        return self._run_bound

    def _run_bound(self) -> None:
        self.binding.synchronize_inputs()
        self.session.run_with_iobinding(self.binding)
        self.binding.synchronize_outputs()

    def keep_outputs(self) -> None:
        """After a first run: later runs write to the same memory, as a captured CUDA graph has to."""
        if self.device is not None:
            for output, value in zip(self.session.get_outputs(), self.binding.get_outputs(), strict=True):
                self.binding.bind_ortvalue_output(output.name, value)

    def _transfers(self, device: tuple[str, int], repeats: int) -> tuple[float, float]:
        import onnxruntime as ort

        outputs = self.binding.get_outputs()
        there = _burst(lambda: [ort.OrtValue.ortvalue_from_numpy(a, *device) for a in self.feeds.values()], repeats)
        back = _burst(lambda: [value.numpy() for value in outputs], repeats)
        return float(np.median(there)), float(np.median(back))

    def _guarded(self, call: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return call(*arguments)
        except Exception as error:
            raise ModelError(f"{self.name}: ONNX Runtime can't run it ({_said(error)})") from error


def _burst(run: Callable[[], Any], runs: int) -> Floats:
    """Durations of calls in ms. One reading of the clock ends a run and starts the next one."""
    clock = time.perf_counter_ns
    marks = [0] * (runs + 1)
    marks[0] = clock()
    for k in range(1, runs + 1):
        run()
        marks[k] = clock()
    return np.diff(np.array(marks) - marks[0]).astype(np.float64) / 1e6


def _said(error: Exception) -> str:
    from onnxprune.proof.session import first_line  # which needs onnx: processes that only run models do without

    return first_line(error)
