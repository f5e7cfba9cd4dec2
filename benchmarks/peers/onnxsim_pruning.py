"""Contestant: `onnxsim.pruning.apply_structured_pruning`, on the file as it is or after `onnxsim.simplify`."""

from __future__ import annotations

from pathlib import Path

from measure import Case, parameters, peak_rss_mb, serve, timed


def measure(case: Case) -> None:
    """Options: `ratio`, and `simplify` (bool)."""
    import onnxsim
    from onnxsim.pruning import apply_structured_pruning

    root = Path(onnxsim.__file__).parent.parent
    pruned = None
    try:
        model = case.model
        if case.options["simplify"]:
            case.stage("simplify")
            model, _ = timed(case.record, "simplify_seconds", lambda: onnxsim.simplify(model))
            case.record.update({f"{k}_simplified": v for k, v in parameters(model).items()})
        case.stage("prune")
        ratio = case.options["ratio"]
        pruned = timed(case.record, "seconds", lambda: apply_structured_pruning(model, sparsity=ratio))
    except Exception as error:
        case.fail(error, root)
    case.record["rss_mb"] = peak_rss_mb()
    case.judge_dense()
    if pruned is not None:
        case.judge(pruned)


if __name__ == "__main__":
    serve(measure)
