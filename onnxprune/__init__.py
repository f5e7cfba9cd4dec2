"""onnxprune: structured pruning of exported ONNX models, proved on the model itself."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnxprune.api import PruneResult, analyze, apply, evaluate, prune, verify
    from onnxprune.bench.request import BenchRequest
    from onnxprune.bench.result import Benchmark, load_benchmark
    from onnxprune.bench.run import benchmark
    from onnxprune.cleanup.result import SimplifyReport, SimplifyResult
    from onnxprune.cleanup.simplify import simplify
    from onnxprune.comparison.compare import compare
    from onnxprune.comparison.result import Comparison
    from onnxprune.document.parts import Document
    from onnxprune.document.write import write_report
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
    from onnxprune.latency.timing import Timing
    from onnxprune.metrics.registry import metric
    from onnxprune.metrics.score import Score
    from onnxprune.plan.plan import Plan, load_plan
    from onnxprune.profiling.count import profile
    from onnxprune.profiling.profile import Profile
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
    "write_report": "document.write", "Document": "document.parts",
    "evaluate": "api", "Score": "metrics.score", "metric": "metrics.registry",
    "compare": "comparison.compare", "Comparison": "comparison.result",
    "profile": "profiling.count", "Profile": "profiling.profile",
    "ScoreContext": "select.context", "rule": "trace.registry", "layout": "trace.registry", "Verification": "proof.oracle",
    "simplify": "cleanup.simplify", "SimplifyResult": "cleanup.result", "SimplifyReport": "cleanup.result",
    "Timing": "latency.timing",
}  # fmt: skip
__all__ = [
    "BenchRequest",
    "Benchmark",
    "BudgetError",
    "Comparison",
    "Document",
    "Group",
    "Groups",
    "ModelError",
    "NothingToPruneError",
    "OnnxPruneError",
    "Plan",
    "PlanError",
    "Profile",
    "PruneResult",
    "Report",
    "Score",
    "ScoreContext",
    "SimplifyReport",
    "SimplifyResult",
    "Timing",
    "UsageError",
    "Verification",
    "VerificationError",
    "__version__",
    "analyze",
    "apply",
    "benchmark",
    "compare",
    "criterion",
    "evaluate",
    "layout",
    "load_benchmark",
    "load_plan",
    "metric",
    "profile",
    "prune",
    "rule",
    "simplify",
    "slice_criterion",
    "verify",
    "write_report",
]


def __getattr__(name: str) -> Any:
    """Loads a public name when it is first used: `import onnxprune` stays cheap."""
    if name not in _HOMES:
        raise AttributeError(f"module 'onnxprune' has no attribute {name!r}")
    return getattr(import_module(f"onnxprune.{_HOMES[name]}"), name)
