from hypothesis import given
from hypothesis import strategies as st

from onnxprune.search.front import Card, Front, marked


def front(values, higher):
    cards = [
        Card(f"p{k}", 0.5, {"macs": m, "params": p, "size": 1.0, "latency": t}, w) for k, (w, m, p, t) in enumerate(values)
    ]
    return Front(cards[0], cards[1:], "macs", "accuracy", "plain", higher)


numbers = st.integers(0, 4).map(float)


@given(
    st.lists(st.tuples(numbers, numbers, numbers, st.sampled_from([1.0, 1.5, 2.0])), min_size=1, max_size=7), st.booleans()
)
def test_dominated_are_those_that_another_beats(values, higher):
    found = marked(front(values, higher))
    models = [found.dense, *found.cards]
    sign = 1 if higher else -1

    def costs(v):
        return (-sign * v[0], *v[1:])

    for v, card in zip(values, models, strict=True):
        beaten = any(all(a <= b for a, b in zip(costs(o), costs(v), strict=True)) and costs(o) != costs(v) for o in values)
        assert card.dominated == beaten
    assert not all(c.dominated for c in models)


def test_times_that_differ_by_noise_are_the_same():
    found = marked(front([(90.0, 2.0, 2.0, 1.0), (91.0, 1.0, 1.0, 1.01)], True))
    assert found.dense.dominated and not found.cards[0].dominated
    found = marked(front([(90.0, 2.0, 2.0, 1.0), (91.0, 1.0, 1.0, 1.05)], True))
    assert not found.dense.dominated


def test_a_model_that_failed_beats_nobody():
    whole = front([(90.0, 2.0, 2.0, 1.0), (91.0, 1.0, 1.0, 1.0)], True)
    failed = Card("p1", 0.5, {}, failed="why")
    found = marked(Front(whole.dense, [failed], "macs", "accuracy", "plain", True))
    assert not found.dense.dominated and not found.cards[0].dominated
