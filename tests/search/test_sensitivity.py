import json
from dataclasses import replace

import jsonschema
import numpy as np
import pytest

from onnxprune.errors import UsageError
from onnxprune.jobs.cluster import Inline
from onnxprune.jobs.log import Log
from onnxprune.latency.timing import Timing
from onnxprune.metrics.data import load_data
from onnxprune.search.figures import sensitivity_plot
from onnxprune.search.pays import add_latency, by_worth, common_error, paying
from onnxprune.search.sensitivity import Worth, check_ratios, count, measure, predicted, schema


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


# ---- time ----


@pytest.fixture(scope="module")
def timed(study, tmp_path_factory):
    """The analysis with latencies, and their table."""
    cache = tmp_path_factory.mktemp("cache")
    found = predicted(study)
    latency = study.latency(Timing(threads=1, cache=cache), lambda stage, done: None)
    add_latency(study, found, latency)
    return found, latency, cache


def test_latencies_are_those_of_the_table_and_follow_the_schema(study, timed):
    found, latency, cache = timed
    assert found.latency == latency.total({}) == pytest.approx(found.latency_table.dense_ms, rel=0.3)
    assert found.latency_table.measured_now and found.latency_table.threads == 1
    assert found.latency_table.inputs == {"x": (1, 1, 8, 8)}
    for curve in found.groups:
        for point in curve.points:
            assert point.latency == latency.total({curve.id: curve.units - point.removed})
            assert point.latency_share == pytest.approx(point.latency / found.latency)
    jsonschema.validate(json.loads(json.dumps(found.to_dict())), schema())
    again = predicted(study)
    add_latency(study, again, study.latency(Timing(threads=1, cache=cache), lambda stage, done: None))
    assert again.latency_table.measured_now == 0
    assert [c.points for c in again.groups] == [c.points for c in found.groups]


def test_what_a_group_is_worth_is_what_it_saves_within_the_common_error(timed):
    found, latency, _ = timed
    for curve in found.groups:
        saved = [w.saved for w in curve.paying]
        assert saved == sorted(saved) and [w.predicted for w in curve.paying] == sorted(w.predicted for w in curve.paying)
        assert curve.worth.predicted <= found.worth_error
        for width in curve.paying:
            share = latency.total({curve.id: curve.units - width.removed}) / found.latency
            assert width.saved == pytest.approx(1 - share)
            step = found.latency_table.steps[curve.id]
            stays = curve.units - width.removed
            assert stays % step == 0 or step % stays == 0
    ranked = [c.worth.saved for c in by_worth(found)]
    assert ranked == sorted(ranked, reverse=True)


def test_widths_that_pay_are_not_beaten_at_less_error():
    gone, errors = np.array([0, 2, 4, 6, 7]), np.array([0.0, 0.1, 0.2, 0.3, 0.4])
    saved = np.array([0.0, -0.1, 0.3, 0.2, 0.5])
    assert paying(gone, errors, saved) == [Worth(4, 0.2, 0.3), Worth(7, 0.4, 0.5)]
    assert paying(gone, errors, -saved) == [Worth(2, 0.1, 0.1)]
    assert paying(gone, np.zeros(5), np.zeros(5)) == []


def test_groups_are_compared_at_a_round_error_in_the_middle_of_what_can_be_saved():
    errors = {"free": np.array([0, 0, 0]), "cheap": np.array([0, 0.04, 0.1]), "dear": np.array([0, 0.5, 0.9])}
    saved = {"free": np.array([0, 0.9, 0.95]), "cheap": np.array([0, 0.2, 0.3]), "dear": np.array([0, 0.1, 0.2])}
    units, gone = dict.fromkeys(errors, 64), dict.fromkeys(errors, np.array([0, 32, 60]))
    assert common_error(units, gone, errors, saved) == pytest.approx(0.05)
    assert common_error(units, gone, errors, {**saved, "dear": np.array([0, 0.3, 0.4])}) == pytest.approx(0.5)
    assert common_error(units, {"free": gone["free"]}, errors, saved) is None
    few = {g: np.array([0, 0, *own]) for g, own in errors.items()}  # widths close to none
    more = {g: np.array([0, 0, *own]) for g, own in saved.items()}
    assert common_error(units, dict.fromkeys(errors, np.array([0, 8, 10, 32, 60])), few, more) == pytest.approx(0.05)


def test_the_picture_of_times_is_the_same_bytes_again(timed):
    picture = sensitivity_plot(timed[0], "small", "svg")
    assert picture == sensitivity_plot(timed[0], "small", "svg")
    assert len(picture) > len(sensitivity_plot(replace(timed[0], latency=None), "small", "svg"))
    assert sensitivity_plot(timed[0], "small", "png").startswith(b"\x89PNG")
