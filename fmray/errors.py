"""Name every error that fmray raises on purpose.

    FmrayError
    ├── SpecError      the job file asks for something that does not exist or does not fit
    ├── DataError      the data, or a record about it, is not what was promised
    ├── TrainError     training cannot start, continue or be believed
    │   └── GateError  a gate stops the run before training
    └── ClusterError   the machines, the store or another process stand in the way

A message says where, what was given, and what is accepted or what to do. Any other exception that escapes is a bug.
"""

from collections.abc import Sequence

from fmray.printable import printable


class FmrayError(Exception):
    """Describe what fmray refused, and what it would accept.

    Args:
        message: One sentence with the offending value, one with what is accepted.
        where: File, line and key as the user wrote them, if known.
    """

    def __init__(self, message: str, where: str = "") -> None:
        # names in them come from strangers' files
        self.message = printable(message)
        self.where = printable(where)
        super().__init__(f"{self.where}: {self.message}" if where else self.message)
        self.errors: tuple[FmrayError, ...] = (self,)

    @classmethod
    def join(cls, errors: Sequence["FmrayError"]) -> "FmrayError":
        """Make one error of several; `where` and `message` are those of the first, its text has a line for each."""
        if len(errors) == 1:
            return errors[0]
        whole = cls(errors[0].message, errors[0].where)
        whole.args = ("\n".join(map(str, errors)),)
        whole.errors = tuple(errors)
        return whole


class SpecError(FmrayError):
    """Refuse a job file, or a call that plays its part."""


class DataError(FmrayError):
    """Refuse data, or a record on disk that is damaged or incomplete."""


class TrainError(FmrayError):
    """Refuse to start, continue or believe a training."""


class GateError(TrainError):
    """Stop a run before it trains, since its data failed a gate.

    Args:
        gates: Names of those that failed.
    """

    def __init__(self, message: str, where: str = "", gates: Sequence[str] = ()) -> None:
        super().__init__(message, where)
        self.gates = tuple(gates)


class ClusterError(FmrayError):
    """Name what the machines, the store or another process hold back."""
