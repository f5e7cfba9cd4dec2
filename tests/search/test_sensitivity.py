import json

import jsonschema
import pytest

from onnxprune.errors import UsageError
from onnxprune.jobs.cluster import Inline
from onnxprune.jobs.log import Log
from onnxprune.metrics.data import load_data
from onnxprune.search.figures import sensitivity_plot
from onnxprune.search.sensitivity import check_ratios, count, measure, predicted, schema


def test_predictions_grow_with_the_ratio_and_follow_the_schema(study):
    found = predicted(study, (0.2, 0.5, 0.8))
    for curve in found.groups:
        errors = [p.predicted for p in curve.points]
        assert errors == sorted(errors) and errors[0] < errors[-1]
        assert [p.macs for p in curve.points] == sorted((p.macs for p in curve.points), reverse=True)
        assert all(p.macs < found.macs and p.params < found.params and p.size < found.size for p in curve.points)
    jsonschema.validate(json.loads(json.dumps({"model": "m", **found.to_dict()})), schema())


def test_what_is_measured_comes_from_the_log_the_second_time(study, files, tmp_path):
    data = load_data(files["eval"], study.source)
    found, again = predicted(study), predicted(study)
    with Log(tmp_path / "log") as log:
        measure(study, found, Inline(), log, evaluation=data, metric="accuracy")
        assert len(log) == len(found.groups)
        for key in list(log):
            log.results[key] = [[1.0, 2.0, 3.0]] * len(found.ratios)
        measure(study, again, Inline(), log, evaluation=data, metric="accuracy")
    points = [p for curve in found.groups for p in curve.points if p.removed]
    assert all(p.repaired > 0 for p in points) and sum(p.repaired for p in points) < 0.8 * sum(p.error for p in points)
    assert all(0 <= p.metric <= 100 for p in points) and len({p.metric for p in points}) > 3
    assert {(p.error, p.repaired, p.metric) for curve in again.groups for p in curve.points} == {(1.0, 2.0, 3.0)}
    found.metric = {
        "name": "accuracy", "title": "top-1", "unit": "percent", "higher_is_better": True, "value": 100.0, "samples": 64,
        "data": "eval.npz",
    }  # fmt: skip
    jsonschema.validate(json.loads(json.dumps(found.to_dict())), schema())
    picture = sensitivity_plot(found, "small", "svg")
    assert picture == sensitivity_plot(found, "small", "svg") and picture.startswith(b"<?xml")
    assert sensitivity_plot(found, "small", "png").startswith(b"\x89PNG")


def test_the_log_is_of_one_study_and_other_ratios_are_not_in_it(study, tmp_path):
    with Log(tmp_path / "log") as log:
        measure(study, predicted(study, (0.5,)), Inline(), log)
        first = len(log)
        measure(study, predicted(study, (0.5,)), Inline(), log)
        assert len(log) == first
        measure(study, predicted(study, (0.25,)), Inline(), log)
        assert len(log) == 2 * first


def test_ratios():
    assert check_ratios([0.5, 0.25, 0.5]) == [0.25, 0.5]
    assert [count(4, r) for r in (0.1, 0.5, 0.99)] == [0, 2, 3]
    for wrong in (0.0, 1.0, -0.2):
        with pytest.raises(UsageError, match="not between 0 and 1"):
            check_ratios([wrong])
