"""Who is measured: a table of options. All get the same model, the same ratio and the same calibration batches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from accuracy.task import Setting


@dataclass(frozen=True)
class Contestant:
    """One way to choose units and to repair what is left.

    Attributes:
        name: for the command line and the table.
        text: what it does.
        tool: `onnxprune` or `onnxsim`.
        options: of the tool.
        calibrated: gets data, so it is measured for each seed.
        few: is measured with few samples too.
    """

    name: str
    text: str
    options: Mapping[str, Any] = field(default_factory=dict)
    tool: str = "onnxprune"
    calibrated: bool = True
    few: bool = False

    @property
    def script(self) -> str:
        """File name of the process."""
        return f"run_{self.tool}.py"

    @property
    def ranks(self) -> bool:
        """It distributes a target over the groups in its own way."""
        return "ranking" in self.options

    def takes(self, setting: Setting) -> bool:
        """It is measured at the setting."""
        wanted = any(fnmatchcase(self.name, pattern) for pattern in setting.contestants)
        return wanted and bool(setting.target) if self.ranks else wanted and setting.latency is None

    def request(self, setting: Setting, ratio: float) -> dict[str, Any]:
        """Options of a run."""
        if self.tool == "onnxprune":
            options = {**setting.options, "ratio": ratio, **self.options}
            if self.ranks:
                options["target"] = setting.target
            if "target" in options:
                del options["ratio"]
            return options
        heads = setting.options.get("attention", "heads") != "off"
        return {"ratio": ratio, "heads": heads, "inner": setting.inner, **self.options}


def _ours(name: str, text: str, criterion: str, reconstruct: str = "", few: bool = False) -> Contestant:
    options = {"criterion": criterion} | ({"reconstruct": reconstruct} if reconstruct else {})
    return Contestant(name, text, options, calibrated=bool(reconstruct), few=few)


def _ranking(name: str, text: str, ranking: str, criterion: str = "obs", few: bool = False) -> Contestant:
    options = {"criterion": criterion, "reconstruct": "lsq", "ranking": ranking, "round_to": 1}  # the same for all
    return Contestant(name, text, options, few=few)


def _onnxsim(name: str, text: str, score: str, finetune: bool) -> Contestant:
    calibrated = finetune or score == "wanda"
    return Contestant(name, text, {"score": score, "finetune": finetune}, "onnxsim", calibrated)


CONTESTANTS = (
    _ours("obs+lsq", "greedy OBS, least squares over all taps: what onnxprune does with data", "obs", "lsq", few=True),
    _ranking("knapsack", "the same, the loss of each width measured, within a target: the default with one", "knapsack"),
    _ranking("uniform", "the same, equal ratios, within the target", "local"),
    _ranking(
        "global", "the same with all groups together: OBS curves times the measured effect on the output", "global", few=True
    ),
    _ranking("isomorphic", "the same with groups of the same structure together", "isomorphic"),
    _ranking("global-l2", "L2 with all groups together, least squares over all taps", "global", "l2"),
    _ours("l2+lsq", "L2, least squares over all taps", "l2", "lsq", few=True),
    _ours("obs+bias", "greedy OBS, mean into the bias", "obs", "bias"),
    _ours("l2+bias", "L2, mean into the bias", "l2", "bias"),
    _ours("obs", "greedy OBS alone", "obs", "none"),
    Contestant(
        "synthetic",
        "greedy OBS, least squares, on 512 random samples of the kind that the model takes: no data",
        {"criterion": "obs", "reconstruct": "lsq", "data": "synthetic", "samples": 512},
        calibrated=False,
    ),
    Contestant(
        "merge",
        "greedy OBS on correlations that the weights tell, removed channels folded into those that stay: no data",
        {"merge": True},
        calibrated=False,
    ),
    _ours("fisher+lsq", "group Fisher information, least squares over all taps", "fisher", "lsq"),
    _ours("l2", "L2 alone, without data", "l2"),
    _ours("l1", "L1 alone, without data", "l1"),
    _ours("grail-like", "L1, least squares with the Gram matrix of channels (after GRAIL)", "l1", "channel"),
    _ours("flap-like", "variance x weight, mean into the bias (after FLAP)", "flap", "bias"),
    _ours("wanda-like", "activation norm x weight (after Wanda)", "wanda", "none"),
    _onnxsim("onnxsim", "onnxsim, L2, without data", "l2", False),
    _onnxsim("onnxsim-wanda", "onnxsim, its Wanda criterion", "wanda", False),
    _onnxsim("onnxsim+fit", "onnxsim, L2 and its ridge fine-tuning of MatMul and Gemm", "l2", True),
    _onnxsim("onnxsim-wanda+fit", "onnxsim, its Wanda criterion and its ridge fine-tuning", "wanda", True),
)
