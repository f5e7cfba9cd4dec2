"""How many units of each group go, and which: ratios, floors, multiples, patterns, ranking, attention."""

import numpy as np
import pytest

from onnxprune.api import analyze, prune
from onnxprune.errors import NothingToPruneError, UsageError
from onnxprune.select.allocate import Choice, Options, allocate


def shapes(model) -> dict[str, list[int]]:
    return {t.name: list(t.dims) for t in model.graph.initializer}


def pruned(model, **options) -> dict[str, list[int]]:
    result = prune(model, **options)
    assert result.report.verification.passed
    assert result.report.put_back == []
    return shapes(result.model)


def choose(model, **options) -> dict[str, Choice]:
    """Choices by the first weight of their group."""
    return {c.group.members[0][0]: c for c in allocate(analyze(model), Options(**options))}


@pytest.mark.parametrize(("ratio", "first", "second"), [(0.5, 6, 5), (0.25, 9, 8), (0.99, 1, 1), (0.75, 3, 3)])
def test_a_ratio_is_a_share_of_each_group(chain, ratio, first, second):
    after = pruned(chain(), ratio=ratio)
    assert after["w1"] == [first, 3, 3, 3] and after["b1"] == [first]
    assert after["w2"] == [second, first, 1, 1] and after["w3"] == [second, 4]


def test_ratio_zero_leaves_nothing_to_do(chain):
    with pytest.raises(NothingToPruneError):
        prune(chain(), ratio=0)


@pytest.mark.parametrize("pattern", ["w1", "w[1]", "b1", "g0"])
def test_ratios_by_pattern(chain, pattern):
    after = pruned(chain(), ratio=0.5, ratios={pattern: 0.25})
    assert after["w1"][0] == 9 and after["w2"] == [5, 9, 1, 1]


def test_ratios_by_node(chain):
    model = chain()
    for node in model.graph.node:
        node.name = f"layer/{node.output[0]}"
    after = pruned(model, ratio=0.5, ratios={"layer/a": 0.25})
    assert after["w1"][0] == 9 and after["w3"][0] == 5


def test_the_last_match_counts(chain):
    assert pruned(chain(), ratios={"w1": 0.25, "w*": 0.75})["w1"][0] == 3
    assert pruned(chain(), ratios={"w*": 0.75, "w1": 0.25})["w1"][0] == 9


def test_ignore(chain):
    after = pruned(chain(), ratio=0.5, ignore=["b1"])
    assert after["w1"][0] == 12 and after["w2"] == [5, 12, 1, 1]


def test_only(chain):
    after = pruned(chain(), ratio=0.5, only=["b1"])
    assert after["w1"][0] == 6 and after["w2"] == [10, 6, 1, 1]


def test_ignore_beats_only(chain):
    after = pruned(chain(), ratio=0.5, only=["w*"], ignore=["w3"])
    assert after["w1"][0] == 6 and after["w3"][0] == 10


@pytest.mark.parametrize("option", [{"ignore": ["nope*"]}, {"only": ["nope*"]}, {"ratios": {"nope*": 0.5}}])
def test_a_pattern_that_matches_nothing(chain, option):
    with pytest.raises(UsageError, match=r"'nope\*' matches no group"):
        prune(chain(), **option)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"ratio": 1.0}, "ratio 1 is not in"),
        ({"ratio": -0.1}, "ratio -0.1 is not in"),
        ({"ratios": {"w1": 2.0}}, "ratio 2 is not in"),
        ({"round_to": 0}, "at least 1"),
        ({"min_channels": 0}, "at least 1"),
        ({"ranking": "both"}, "ranking 'both'"),
        ({"attention": "rows"}, "attention 'rows'"),
        ({"criterion": "l7"}, "unknown criterion 'l7'; there are .*l1, l2"),
    ],
)
def test_an_option_out_of_range(chain, option, words):
    with pytest.raises(UsageError, match=words):
        prune(chain(), **option)


@pytest.mark.parametrize(
    ("step", "ratio", "first", "second"), [(4, 0.5, 8, 8), (4, 0.7, 4, 4), (8, 0.3, 12, 8), (5, 0.9, 5, 5)]
)
def test_widths_are_multiples(chain, step, ratio, first, second):
    """Never more goes than asked for; where the group is smaller than the multiple above, all of it stays."""
    choices = choose(chain(), ratio=ratio, round_to=step)
    assert 12 - choices["w1"].count == first
    assert 10 - choices["w2"].count == second


def test_min_channels(chain):
    after = pruned(chain(), ratio=0.9, min_channels=4)
    assert after["w1"][0] == 4 and after["w3"][0] == 4


def test_min_channels_beyond_a_group(chain):
    choices = choose(chain(), ratio=0.5, min_channels=11)
    assert choices["w1"].count == 1 and choices["w2"].count == 0


def test_heads_are_multiples_by_width(attention):
    """A head is four slices wide: a multiple of 8 is a multiple of two heads."""
    after = pruned(attention(), ratio=0.7, round_to=8)
    assert after["wq"] == [6, 8] and after["wo"] == [8, 8]


def test_groups_of_a_convolution_are_multiples_by_width(grouped):
    choices = choose(grouped(), ratio=0.5, round_to=8)
    for choice in choices.values():
        kept = 16 - choice.group.width * choice.count
        assert kept % 8 == 0 and choice.count


def test_columns_of_a_convolution_go_alike_in_each_group(grouped):
    after = pruned(grouped(), ratio=0.5)
    assert after["w1"] == [8, 3, 1, 1] and after["wg"] == [8, 2, 1, 1] and after["w3"] == [4, 8, 1, 1]


@pytest.mark.parametrize(("mode", "heads", "dim"), [("heads", 2, 4), ("head-dim", 4, 2), ("both", 2, 2), ("off", 4, 4)])
def test_attention(attention, mode, heads, dim):
    after = pruned(attention(), ratio=0.5, attention=mode)
    for name in ("wq", "wk", "wv"):
        assert after[name] == [6, heads * dim]
    assert after["wo"] == [heads * dim, 5]


def test_local_takes_the_least_of_each_group(chain):
    w1 = np.ones((12, 3, 3, 3))
    small = [1, 4, 5, 7, 8, 11]
    w1[small] = 0.1
    assert choose(chain(w1=w1), ratio=0.5)["w1"].removed == [small]


def test_global_takes_more_where_it_matters_less(chain):
    """One group has eleven channels of 12 that hardly count, the other ten equal ones."""
    w1, b1, w2, w3 = np.zeros((12, 3, 3, 3)), np.zeros(12), np.ones((10, 12, 1, 1)), np.ones((10, 4))
    w2[:, 1:] = 0.01
    w1[0] = 5.0
    after = choose(chain(w1=w1, b1=b1, w2=w2, w3=w3), ratio=0.5, ranking="global")
    assert after["w1"].count == 11 or after["w1"].count > after["w2"].count
    assert 0 not in after["w1"].removed[0]


def test_global_keeps_to_the_budget_of_parameters(chain):
    choices = choose(chain(), ratio=0.5, ranking="global").values()
    gone = sum(c.count * c.group.unit_params for c in choices)
    total = sum(c.group.units * c.group.unit_params for c in choices)
    assert gone == pytest.approx(total / 2, abs=max(c.group.unit_params for c in choices))


def test_global_leaves_ratios_by_pattern_local(chain):
    choices = choose(chain(), ratio=0.5, ranking="global", ratios={"b1": 0.25})
    assert choices["w1"].count == 3


def test_one_part_of_a_split_is_never_empty(chain):
    """Half of a group may be all of one part: then the best of it stays."""
    model = chain(w1=np.concatenate([np.full((6, 3, 3, 3), 0.01), np.ones((6, 3, 3, 3))]))
    nodes = list(model.graph.node)
    relu = nodes[1]
    import onnx.helper as helper

    del model.graph.node[:]
    model.graph.node.extend(
        [
            nodes[0],
            helper.make_node("Split", ["a"], ["p", "q"], axis=1),
            helper.make_node("Relu", ["p"], ["p1"]),
            helper.make_node("Sigmoid", ["q"], ["q1"]),
            helper.make_node("Concat", ["p1", "q1"], [relu.output[0]], axis=1),
            *nodes[2:],
        ]
    )
    result = prune(model, ratio=0.5)
    assert result.report.verification.passed
    assert shapes(result.model)["w1"][0] >= 6
