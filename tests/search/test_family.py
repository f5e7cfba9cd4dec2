import json
from pathlib import Path

import jsonschema
import onnx
import pytest

import onnxprune
from onnxprune.bench.inputs import made_up
from onnxprune.errors import BudgetError, UsageError
from onnxprune.jobs.cluster import Inline
from onnxprune.jobs.log import Log
from onnxprune.metrics.data import load_data
from onnxprune.report.evaluate import evaluate
from onnxprune.search.family import LOG, Family, goals, save_front, shares, timed
from onnxprune.search.figures import front_plot
from onnxprune.search.front import schema


def family(study, files, folder: Path, candidates=0):
    folder.mkdir(exist_ok=True)
    data = load_data(files["eval"], study.source)
    before = evaluate(study.source, data)
    with Log(folder / LOG) as log:
        made = Family(study, study.shared(data, before.metric), Inline(), folder, log, before)
        wanted, said = goals(study, "macs", 3, 0.4), {}
        if candidates:
            wanted, said = made.searched(wanted, candidates)
        found = made.front(made.made(wanted, said), "macs")
    details = {
        "source": {"file": str(files["model"]), "sha256": study.sha256}, "calibration": "", "evaluation": None, "candidates": 0,
        "seed": 0,
    }  # fmt: skip
    found.details.update(details)
    save_front(found, folder)
    return found, made.repeated


def test_every_model_is_proven_within_its_budget_and_as_good_as_the_card_says(study, files, tmp_path):
    found, _ = family(study, files, tmp_path, candidates=4)
    assert [c.name for c in found.cards] == ["p1", "p2", "p3"]
    for card in found.cards:
        model = onnx.load(tmp_path / f"{card.name}.onnx")
        plan = onnxprune.load_plan(tmp_path / f"{card.name}.plan.json")
        assert onnxprune.verify(study.source, model, plan).passed and card.details["verification"]["passed"]
        assert card.figures["macs"] <= card.share * study.cost("macs").total({}) * (1 + 1e-9)
        assert card.figures["size"] == pytest.approx(model.ByteSize(), rel=0.01)
        assert onnxprune.evaluate(model, files["eval"]).value == card.worth
        assert card.details["search"]["best_error"] <= card.details["search"]["knapsack_error"]
        plain = json.loads((tmp_path / f"{card.name}.json").read_text())
        jsonschema.validate(plain, schema("card"))
    assert found.cards[0].figures["macs"] > found.cards[1].figures["macs"] > found.cards[2].figures["macs"]
    index = json.loads((tmp_path / "index.json").read_text())
    jsonschema.validate(index, schema("front"))
    assert [m["name"] for m in index["models"]] == ["dense", "p1", "p2", "p3"]
    with_times = timed(found, files["model"], tmp_path, made_up(study.source), seconds=0.01)
    assert all(c.figures["latency"] > 0 for c in (with_times.dense, *with_times.cards))
    for front in (found, with_times):
        assert front_plot(front, "small", "svg").count(b"<svg") == 1


def test_what_is_finished_is_not_made_again_unless_its_files_were_touched(study, files, tmp_path):
    first, _ = family(study, files, tmp_path)
    held = {p.name: p.read_bytes() for p in tmp_path.glob("p*")}
    again, repeated = family(study, files, tmp_path)
    assert repeated == 3 and [c.worth for c in again.cards] == [c.worth for c in first.cards]
    (tmp_path / "p2.onnx").write_bytes(b"damaged")
    (tmp_path / "p3.plan.json").unlink()
    _, repeated = family(study, files, tmp_path)
    assert repeated == 1
    seconds = "seconds"  # of the stages, in cards

    def plain(name, data):
        return {k: v for k, v in json.loads(data).items() if k != seconds} if name in ("p2.json", "p3.json") else data

    assert {p.name: plain(p.name, p.read_bytes()) for p in tmp_path.glob("p*")} == {n: plain(n, d) for n, d in held.items()}


def test_points_are_spread_evenly():
    assert shares(4, 0.2) == pytest.approx([0.8, 0.6, 0.4, 0.2])
    for points, least in ((0, 0.5), (3, 0.0), (3, 1.0)):
        with pytest.raises(UsageError):
            shares(points, least)


def test_a_smallest_model_that_cant_be_had_is_a_budget_error(study):
    with pytest.raises(BudgetError, match="can't be met"):
        goals(study, "macs", 2, 0.0001)
