"""Tell which errors of members are recorded as their outcome, and which end the sweep."""

from collections.abc import Sequence

from fmray.errors import SpecError, TrainError
from fmray.events import Report
from fmray.failures import DEVICE_MEMORY, LEFT_OUT, MEMORY
from fmray.records import Json
from fmray.train.failures import CodeError, failure, is_user_error, kind_of, one_line
from fmray.train.pack import Plan
from fmray.train.workers import code_error
from fmray.tune.trial import name_members


def report_member_error(error: BaseException, plans: Sequence[Plan], path: str, report: Report) -> Json | None:
    """Report an error that affects only these members, and return it as {"reason", "class"}.

    Return None if the error must end the sweep.

    Args:
        path: Where in the run's directory the traceback is written.
    """
    about = f"{name_members(plans)}: "
    if isinstance(error, SpecError | TrainError) and not isinstance(error, CodeError):
        report(failure(kind_of(error), f"{about}{one_line(error)}", LEFT_OUT))
        return {"reason": str(error), "class": type(error).__name__}
    if is_user_error(error) or kind_of(error) in (MEMORY, DEVICE_MEMORY):
        found = code_error(error, path, report=report, action=LEFT_OUT, about=about)
        return {"reason": found.said, "class": TrainError.__name__}
    return None
