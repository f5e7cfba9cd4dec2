"""Every error a user can meet is an `OnnxPruneError`; the command line exits with its `exit_code`.

    0  done
    1  `ModelError`           the model or another input file is bad
    2  `UsageError`           the call is wrong: an option, a path, a plan (`PlanError`)
    3  `VerificationError`    the pruned model does not compute what the plan promises, or two models differ by too much
    4  `BudgetError`          the budget can't be met
    5  `NothingToPruneError`  the model is sound, but nothing in it can be removed

Any other exception is a bug of ours.
"""

from typing import ClassVar


class OnnxPruneError(Exception):
    """Root of all errors raised on purpose. The message is one line: what is wrong where, then what to do."""

    exit_code: ClassVar[int] = 1


class ModelError(OnnxPruneError):
    """The model, or another file that was handed in, is missing, damaged or not supported (exit code 1)."""

    exit_code: ClassVar[int] = 1


class UsageError(OnnxPruneError):
    """The call itself is wrong: an option, a value, or a path that can't be written to (exit code 2)."""

    exit_code: ClassVar[int] = 2


class PlanError(UsageError):
    """A plan is malformed, or does not belong to the model it is applied to (exit code 2)."""


class VerificationError(OnnxPruneError):
    """A model differs from another by more than rounding, or than a threshold allows (exit code 3)."""

    exit_code: ClassVar[int] = 3


class BudgetError(OnnxPruneError):
    """No allowed choice of units meets the budget (exit code 4)."""

    exit_code: ClassVar[int] = 4


class NothingToPruneError(ModelError):
    """The model is sound, but every axis of every weight is frozen (exit code 5)."""

    exit_code: ClassVar[int] = 5
