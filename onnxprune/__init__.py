"""onnxprune: structured pruning of exported ONNX models, proved on the model itself."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnxprune.api import PruneResult, analyze, apply, evaluate, prune, verify
    from onnxprune.bench.request import BenchRequest
    from onnxprune.bench.result import Benchmark, load_benchmark
    from onnxprune.bench.run import benchmark
    from onnxprune.errors import (
        BudgetError,
        ModelError,
        NothingToPruneError,
        OnnxPruneError,
        PlanError,
        UsageError,
        VerificationError,
    )
    from onnxprune.groups.group import Group, Groups
    from onnxprune.metrics.registry import metric
    from onnxprune.metrics.score import Score
    from onnxprune.plan.plan import Plan, load_plan
    from onnxprune.proof.oracle import Verification
    from onnxprune.report.report import Report
    from onnxprune.select.context import ScoreContext
    from onnxprune.select.criteria import criterion, slice_criterion
    from onnxprune.trace.registry import layout, rule

__version__ = "0.1.0"
_HOMES = {
    "prune": "api", "analyze": "api", "apply": "api", "verify": "api", "PruneResult": "api",
    "OnnxPruneError": "errors", "ModelError": "errors", "UsageError": "errors", "VerificationError": "errors",
    "BudgetError": "errors", "PlanError": "errors", "NothingToPruneError": "errors",
    "Group": "groups.group", "Groups": "groups.group", "Plan": "plan.plan", "load_plan": "plan.plan",
    "Report": "report.report", "criterion": "select.criteria", "slice_criterion": "select.criteria",
    "benchmark": "bench.run", "Benchmark": "bench.result", "load_benchmark": "bench.result", "BenchRequest": "bench.request",
    "evaluate": "api", "Score": "metrics.score", "metric": "metrics.registry",
    "ScoreContext": "select.context", "rule": "trace.registry", "layout": "trace.registry", "Verification": "proof.oracle",
}  # fmt: skip
__all__ = [
    "BenchRequest",
    "Benchmark",
    "BudgetError",
    "Group",
    "Groups",
    "ModelError",
    "NothingToPruneError",
    "OnnxPruneError",
    "Plan",
    "PlanError",
    "PruneResult",
    "Report",
    "Score",
    "ScoreContext",
    "UsageError",
    "Verification",
    "VerificationError",
    "__version__",
    "analyze",
    "apply",
    "benchmark",
    "criterion",
    "evaluate",
    "layout",
    "load_benchmark",
    "load_plan",
    "metric",
    "prune",
    "rule",
    "slice_criterion",
    "verify",
]


def __getattr__(name: str) -> Any:
    """Loads a public name when it is first used: `import onnxprune` stays cheap."""
    if name not in _HOMES:
        raise AttributeError(f"module 'onnxprune' has no attribute {name!r}")
    return getattr(import_module(f"onnxprune.{_HOMES[name]}"), name)
