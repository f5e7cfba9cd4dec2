"""Small factorizations get one thread, others those that there were; afterwards all is as before."""

from threadpoolctl import threadpool_info, threadpool_limits

from onnxprune.statistics.threads import for_factors


def threads():
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


def test_small_factorizations_have_one_thread():
    with threadpool_limits(limits=2, user_api="blas"):
        with for_factors(100):
            assert threads() == {1}
        assert threads() == {2}
        with for_factors(1 << 14):
            assert threads() == {2}
