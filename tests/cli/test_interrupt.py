"""Ctrl-C ends a command even where something on its way swallowed it."""

import signal

import pytest

from onnxprune.cli import interrupt


@pytest.fixture
def handler():
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    interrupt.remember_interrupts()
    yield
    signal.signal(signal.SIGINT, before)
    interrupt._seen.clear()


def test_a_lost_interrupt_is_raised_again(handler):
    interrupt.raise_again()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    assert interrupt.interrupted()
    with pytest.raises(KeyboardInterrupt):
        interrupt.raise_again()
    interrupt.remember_interrupts()
    assert not interrupt.interrupted()


def test_a_command_that_went_on_is_interrupted_all_the_same(handler, monkeypatch, capsys):
    from onnxprune import cli
    from onnxprune.cli import app

    def swallowed(*arguments, **options):
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            return None

    monkeypatch.setattr(app, "app", swallowed)
    assert cli.run(["inspect", "model.onnx"]) == cli.INTERRUPTED
    assert "interrupted" in capsys.readouterr().err


def test_who_ignores_interrupts_goes_on_ignoring_them():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        interrupt.remember_interrupts()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
