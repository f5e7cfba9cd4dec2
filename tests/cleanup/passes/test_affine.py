"""Arithmetic by channel that goes into weights, and where it may not."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import numpy_helper

import onnxprune
from tests.cleanup.passes.checks import becomes, operators, outputs, run, same, stays
from tests.models_text import make

AFFINE = ("affine",)


def number(value: float, dtype: type = np.float32) -> np.ndarray:
    return np.array(value, dtype)


def positive(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.5, 1.5, shape).astype(np.float32)


def norm(name: str, channels: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(len(name))
    return {
        f"{name}s": positive((channels,), 1),
        f"{name}b": rng.standard_normal(channels).astype(np.float32),
        f"{name}m": rng.standard_normal(channels).astype(np.float32),
        f"{name}v": positive((channels,), 2),
    }


CONVOLUTIONS = {
    "Conv": ("Conv<pads=[1,1,1,1]>(x, w)", {"w": (6, 4, 3, 3)}),
    "bias": ("Conv(x, w, c)", {"w": (6, 4, 3, 3), "c": (6,)}),
    "grouped": ("Conv<group=2>(x, w)", {"w": (6, 2, 3, 3)}),
    "transposed": ("ConvTranspose(x, w, c)", {"w": (4, 6, 3, 3), "c": (6,)}),
    "transposed, grouped": ("ConvTranspose<group=2>(x, w)", {"w": (4, 3, 3, 3)}),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_chain_of_norm_and_arithmetic_goes_into_the_convolution_before_it(name):
    convolution, weights = CONVOLUTIONS[name]
    model = make(
        f"""(float[2,4,8,8] x) => (float[n,c,h,k] y) {{
            a = {convolution}
            b = BatchNormalization(a, s, b0, m, v)
            d = Mul(f, b)
            e = Sub(d, g)
            y = Div(e, q)
        }}""",
        {
            **weights,
            **dict(zip(("s", "b0", "m", "v"), norm("", 6).values(), strict=True)),
            "f": positive((6, 1, 1)),
            "g": (1, 6, 1, 1),
            "q": number(1.7),
        },
    )
    becomes(model, AFFINE, {convolution.split("(")[0].split("<")[0]: 1})


def test_a_chain_without_a_convolution_before_it_becomes_one_norm():
    model = make(
        """(float[2,4,5,5] x) => (float[2,4,5,5] y) {
            r = Relu(x)
            a = BatchNormalization(r, s, b, m, v)
            c = Mul(a, f)
            d = Add(c, g)
            y = Relu(d)
        }""",
        {**norm("", 4), "f": positive((4, 1, 1)), "g": (4, 1, 1)},
    )
    becomes(model, AFFINE, {"Relu": 2, "BatchNormalization": 1})


@pytest.mark.parametrize(
    "product, weights",
    [
        ("Gemm(x, w, c)", {"w": (8, 6), "c": (6,)}),
        ("Gemm<transB=1, alpha=0.5, beta=2.0>(x, w, c)", {"w": (6, 8), "c": (6,)}),
        ("Gemm(x, w, c)", {"w": (8, 6), "c": ()}),
        ("Gemm<transB=1>(x, w)", {"w": (6, 8)}),
    ],
)
def test_gemm_takes_scale_and_shift_of_its_columns(product, weights):
    model = make(
        f"(float[3,8] x) => (float[3,6] y) {{ a = {product} b = Mul(a, f) y = Add(b, g) }}",
        {**weights, "f": (6,), "g": (1, 6)},
    )
    becomes(model, AFFINE, {"Gemm": 1})


@pytest.mark.parametrize("attributes, weight", [("", (8, 6)), ("<transB=1, alpha=0.5, beta=2.0>", (6, 8))])
def test_gemm_takes_scale_and_shift_of_its_input(attributes, weight):
    model = make(
        f"(float[3,8] x) => (float[3,6] y) {{ a = Mul(x, f) b = Add(a, g) y = Gemm{attributes}(b, w, c) }}",
        {"f": (8,), "g": (8,), "w": weight, "c": (6,)},
    )
    becomes(model, AFFINE, {"Gemm": 1})


def test_a_scale_goes_through_moves_and_a_bias_into_a_product():
    """The scale of attention goes into the projection of the queries."""
    model = make(
        """(float[2,5,8] x, float[2,2,4,5] k) => (float[2,2,5,5] y) {
            a = MatMul(x, w)
            b = Add(a, c)
            d = Reshape(b, s)
            q = Transpose<perm=[0,2,1,3]>(d)
            l = MatMul(q, k)
            m = Mul(l, f)
            y = Softmax<axis=-1>(m)
        }""",
        {"w": (8, 8), "c": (8,), "s": np.array([2, 5, 2, 4]), "f": number(0.5)},
    )
    becomes(model, AFFINE, {"MatMul": 2, "Add": 1, "Reshape": 1, "Transpose": 1, "Softmax": 1})


def test_scales_by_head_find_their_columns_behind_a_reshape():
    model = make(
        """(float[b,5,8] x) => (float[b,2,5,4] y) {
            a = MatMul(x, w)
            d = Reshape(a, s)
            q = Transpose<perm=[0,2,1,3]>(d)
            y = Mul(q, f)
        }""",
        {"w": (8, 8), "s": np.array([0, 5, 2, 4]), "f": (2, 1, 4)},
    )
    becomes(model, AFFINE, {"MatMul": 1, "Reshape": 1, "Transpose": 1}, b=3)


def test_a_norm_behind_a_concat_is_shared_out():
    model = make(
        """(float[1,3,6,6] x) => (float[1,7,6,6] y) {
            a = Conv(x, w)
            b = Conv(x, u, c)
            d = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(b)
            e = Concat<axis=1>(a, d)
            f = Relu(e)
            g = Mul(f, q)
            y = BatchNormalization(g, s, b0, m, v)
        }""",
        {"w": (3, 3, 1, 1), "u": (4, 3, 1, 1), "c": (4,), "q": positive((7, 1, 1)),
         **dict(zip(("s", "b0", "m", "v"), norm("", 7).values(), strict=True))},
    )  # fmt: skip
    result, _ = run(model, *AFFINE)
    assert operators(result) == {"Conv": 2, "MaxPool": 1, "Concat": 1, "Relu": 1, "BatchNormalization": 1}
    same(model, result)


def test_one_part_of_a_split_is_scaled():
    model = make(
        """(float[1,3,6,6] x) => (float[1,2,6,6] y, float[1,2,6,6] z) {
            a = Conv(x, w, c)
            p, q = Split<axis=1>(a, n)
            y = Mul(p, f)
            z = Relu(q)
        }""",
        {"w": (4, 3, 1, 1), "c": (4,), "n": np.array([2, 2]), "f": (2, 1, 1)},
    )
    becomes(model, AFFINE, {"Conv": 1, "Split": 1, "Relu": 1})


def test_a_norm_goes_into_all_that_read_it():
    model = make(
        """(float[1,4,6,6] x) => (float[1,3,6,6] y, float[1,6,4,4] z) {
            r = Relu(x)
            a = BatchNormalization(r, s, b, m, v)
            y = Conv(a, w)
            z = Conv<group=2>(a, u, c)
        }""",
        {**norm("", 4), "w": (3, 4, 1, 1), "u": (6, 2, 3, 3), "c": (6,)},
    )
    becomes(model, AFFINE, {"Relu": 1, "Conv": 2})


def test_padding_lets_a_scale_pass_but_no_shift():
    weights = {"f": positive((4, 1, 1)), "w": (3, 4, 3, 3)}
    text = "(float[1,4,6,6] x) => (float[1,3,6,6] y) {{ r = Relu(x) a = {}(r, f) y = Conv<pads=[1,1,1,1]>(a, w) }}"
    becomes(make(text.format("Mul"), weights), AFFINE, {"Relu": 1, "Conv": 1})
    stays(make(text.format("Add"), weights), AFFINE, "pads with zeros")


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER"])
def test_implicit_padding_is_padding(auto_pad):
    model = make(
        f'(float[1,4,6,6] x) => (float[1,3,6,6] y) {{ r = Relu(x) a = Add(r, f) y = Conv<auto_pad="{auto_pad}">(a, w) }}',
        {"f": (4, 1, 1), "w": (3, 4, 3, 3)},
    )
    stays(model, AFFINE, "pads with zeros")


@pytest.mark.parametrize(
    "body, reason",
    [
        ("a = Conv(x, w) b = Mul(a, f) c = Relu(a) y = Add(b, c)", "a has other readers"),
        ("a = Conv(x, w) b = Relu(a) c = Mul(b, n) y = Tanh(c)", "not positive"),
        ("a = Conv(x, w) b = Sigmoid(a) y = Mul(b, f)", "Sigmoid"),
        ("a = Conv(x, x2) y = Mul(a, f)", "input 1 of Conv is no constant"),
        ("a = Conv(x, w) y = Mul(a, pixels)", "differs along axis"),
        ("a = Conv(x, w) b = GlobalAveragePool(a) y = Mul(b, pixels)", "longer"),
    ],
)
def test_what_would_change_the_result_stays(body, reason):
    model = make(
        f"(float[1,4,6,6] x, float[3,4,1,1] x2) => (float[n,c,h,k] y) {{ {body} }}",
        {"w": (3, 4, 1, 1), "f": positive((3, 1, 1)), "n": -positive((3, 1, 1)), "pixels": (1, 1, 6, 6)},
    )
    stays(model, AFFINE, reason)


def test_what_is_an_output_stays_visible():
    model = make(
        "(float[1,4,6,6] x) => (float[1,3,6,6] a, float[1,3,6,6] y) { a = Conv(x, w) y = Mul(a, f) }",
        {"w": (3, 4, 1, 1), "f": (3, 1, 1)},
    )
    stays(model, AFFINE, "other readers")


def test_weights_that_others_read_are_not_copied():
    body = "(float[1,64,6,6] x) => (float[1,64,4,4] y, float[1,64,4,4] z) { a = Conv(x, w) y = Mul(a, f) z = Conv(x, w) }"
    stays(make(body, {"w": (64, 64, 3, 3), "f": (64, 1, 1)}), AFFINE, "shared")


BRANCHES = {
    "behind": "{a} = Conv(x{a}, w) {b} = BatchNormalization({a}, s, b, m, v)",
    "behind, with a bias": "{a} = Conv(x{a}, w, c) {b} = BatchNormalization({a}, s, b, m, v)",
    "behind a Relu": "{a} = Conv<pads=[1,1,1,1]>(x{a}, w) r{a} = Relu({a}) {b} = Mul(f, r{a})",
    "in front": "{a} = BatchNormalization(x{a}, s, b, m, v) {b} = Conv({a}, w)",
}
SIAMESE = "(float[1,64,6,6] xp, float[1,64,6,6] xq) => (float[1,64,h,k] y, float[1,64,h,k] z)"


def siamese(first: str, second: str):
    """Two branches, each with the text of its own; both may read the same weights."""
    body = f"{SIAMESE} {{ {first.format(a='p', b='y')} {second.format(a='q', b='z')} }}"
    weights = {"w": (64, 64, 3, 3), "c": (64,), "f": positive((64, 1, 1)), "g": positive((64, 1, 1), 5)}
    return make(body, {**weights, **dict(zip("sbmv", norm("", 64).values(), strict=True))})


@pytest.mark.parametrize("threshold", [0, 1 << 16])
@pytest.mark.parametrize("name", BRANCHES)
def test_a_shared_weight_takes_what_all_of_its_readers_need(name, threshold):
    model = siamese(BRANCHES[name], BRANCHES[name])
    result, _ = run(model, *AFFINE, size_threshold=threshold)
    left = operators(model)
    del left["BatchNormalization"], left["Mul"]
    assert operators(result) == left
    same(model, result)
    assert len({node.input[1] for node in result.graph.node if node.op_type == "Conv"}) == 1  # it is still shared
    assert len(result.graph.initializer) == (1 if name == "behind a Relu" else 2)
    assert result.ByteSize() < model.ByteSize()


@pytest.mark.parametrize(
    "second",
    [
        "{a} = Conv(x{a}, w) {b} = Relu({a})",
        "{a} = Conv(x{a}, w) {b} = Mul({a}, g)",
        "{a} = Conv(x{a}, w) {b} = Div({a}, f)",
        "{a} = Conv(x{a}, w) r = Mul({a}, f) {b} = Sub({a}, r)",
    ],
)
def test_a_shared_weight_stays_where_its_readers_need_different_ones(second):
    stays(siamese("{a} = Conv(x{a}, w) {b} = Mul({a}, f)", second), AFFINE, "shared")


def test_weights_are_copied_where_the_file_may_grow():
    source = siamese("{a} = Conv(x{a}, w) {b} = Mul({a}, f)", "{a} = Conv(x{a}, w) {b} = Mul({a}, g)")
    size = 64 * 64 * 9 * 4
    kept = onnxprune.simplify(source)
    assert kept.report.after == {"Conv": 2, "Mul": 2} and kept.report.bytes_after <= kept.report.bytes_before
    assert onnxprune.simplify(source, size_threshold=size - 1024).report.after["Mul"] >= 1
    grown = onnxprune.simplify(source, size_threshold=size)
    assert grown.report.after == {"Conv": 2}
    assert grown.report.bytes_before < grown.report.bytes_after < grown.report.bytes_before + size
    assert any("--size-threshold" in why for record in kept.report.passes.values() for why in record.declined.values())


def test_equal_functions_that_meet_in_one_branch_go_one_after_the_other():
    """Each would scale the weight by f, but both together by its square."""
    branch = "i{a} = Mul(x{a}, f) s{a} = Sin(x{a}) j{a} = Mul(s{a}, f) k{a} = Mul(i{a}, j{a}) {b} = Conv(k{a}, w)"
    becomes(siamese(branch, branch), AFFINE, {"Sin": 2, "Mul": 2, "Conv": 2})


def test_a_constant_that_makes_the_tensor_larger_stays():
    model = make("(float[1,4] x) => (float[3,6] y) { a = Gemm(x, w) y = Mul(a, f) }", {"w": (4, 6), "f": (3, 6)})
    stays(model, AFFINE, "longer")


def test_a_symbolic_dimension_may_be_one():
    model = make(
        "(float[n,4] x) => (float[n,k] y) { a = MatMul(x, w) b = ReduceMean<axes=[1]>(a) y = Mul(b, f) }",
        {"w": (4, 6), "f": (6,)},
    )
    stays(model, AFFINE, "longer")


def test_integers_are_left_alone():
    stays(make("(int64[3] x) => (int64[3] y) { a = Mul(x, c) y = Mul(a, d) }", {"c": np.array(3), "d": np.array(5)}), AFFINE)


def test_half_precision_is_folded_only_where_it_is_exact():
    body = "(float16[1,4,6,6] x) => (float16[1,3,6,6] y) { a = Conv(x, w) y = Mul(a, f) }"
    weights = {"w": (np.arange(12).reshape(3, 4, 1, 1) / 8).astype(np.float16)}
    becomes(make(body, {**weights, "f": number(0.5, np.float16)}), AFFINE, {"Conv": 1})
    stays(make(body, {"w": (3, 4, 1, 1), "f": number(1 / 3, np.float16)}, dtype=np.float16), AFFINE, "rounding")


def test_a_bias_overflow_is_no_weight():
    model = make(
        "(float[2,4] x) => (float[2,6] y) { a = Gemm(x, w) y = Mul(a, f) }",
        {"w": np.full((4, 6), 1e30, np.float32), "f": number(1e30)},
    )
    result, declined = run(model, *AFFINE)
    assert operators(result) == {"Gemm": 1, "Mul": 1}
    assert any("finite" in reason for reason in declined)


def test_a_training_norm_stays():
    model = make(
        "(float[2,3,4,4] x) => (float[2,3,4,4] y) "
        "{ a = Conv(x, w) y, rm, rv = BatchNormalization<training_mode=1>(a, s, b, m, v) }",
        {"w": (3, 3, 1, 1), **norm("", 3)},
    )
    result, declined = run(model, *AFFINE)
    assert operators(result) == {"Conv": 1, "BatchNormalization": 1}
    assert any("statistics of the batch" in reason for reason in declined)


@pytest.mark.parametrize(
    "op, count",
    [
        ("LayerNormalization(x, g, b)", "LayerNormalization"),
        ("LayerNormalization(x, g)", "LayerNormalization"),
        ("Gather(t, i)", "Gather"),
    ],
)
def test_other_weights_take_it_over(op, count):
    model = make(
        f"(float[2,5,8] x, int64[2,5] i) => (float[2,5,8] y) {{ a = {op} c = Mul(a, f) y = Add(c, h) }}",
        {"g": (8,), "b": (8,), "t": (9, 8), "f": (8,), "h": (8,)},
    )
    result, _ = run(model, *AFFINE)
    assert operators(result) == {count: 1}
    feeds = {
        "x": np.random.default_rng(0).standard_normal((2, 5, 8)).astype(np.float32),
        "i": np.arange(-5, 5).reshape(2, 5) % 9,
    }
    np.testing.assert_allclose(outputs(result, feeds)[0], outputs(model, feeds)[0], rtol=0, atol=1e-5)


def test_uniform_weights_stay_without_memory():
    """A ConstantOfShape as weight stays one, so that the file stays small."""
    model = make(
        """(float[1,64,6,6] x) => (float[1,64,6,6] y) {
            w = ConstantOfShape<value=float[1] {0.25}>(s)
            a = Conv(x, w)
            y = Mul(a, f)
        }""",
        {"s": np.array([64, 64, 1, 1]), "f": number(3)},
    )
    result, _ = run(model, *AFFINE)
    assert operators(result) == {"ConstantOfShape": 1, "Conv": 1}
    assert result.ByteSize() < model.ByteSize() + 200
    same(model, result)


def test_a_norm_of_a_constant_is_no_affine_function_to_move():
    """Weight standardization: BatchNormalization of a weight is for constant folding."""
    model = make(
        "(float[1,4,6,6] x) => (float[1,6,6,6] y) { n = BatchNormalization(w, s, b, m, v) y = Conv(x, n) }",
        {"w": (6, 4, 1, 1), **norm("", 4)},
    )
    stays(model, AFFINE)


def test_a_gelu_stays_whole():
    """ONNX Runtime runs it as one operator, which is worth more than the product by 1/2."""
    model = make(
        """(float[2,5,8] x) => (float[2,5,3] y) {
            d = Div(x, r)
            e = Erf(d)
            p = Add(e, one)
            q = Mul(x, p)
            g = Mul(q, half)
            y = MatMul(g, w)
        }""",
        {"r": number(2**0.5), "one": number(1), "half": number(0.5), "w": (8, 3)},
    )
    stays(model, AFFINE, "Gelu")


def test_weights_of_the_source_are_not_written_to():
    model = make(
        "(float[1,4,6,6] x) => (float[1,3,6,6] y) { a = Conv(x, w) y = Mul(a, f) }", {"w": (3, 4, 1, 1), "f": (3, 1, 1)}
    )
    before = model.SerializeToString()
    result, _ = run(model, *AFFINE)
    assert model.SerializeToString() == before
    assert not np.array_equal(
        numpy_helper.to_array(result.graph.initializer[0]), numpy_helper.to_array(model.graph.initializer[0])
    )
