"""Name what ended a run: errors of the user's code get their place, others are left as they are."""

from fmray.errors import TrainError
from fmray.failures import STOPPED
from fmray.report.journal import Journal
from fmray.train.failures import CodeError, is_user_error, user_frames
from fmray.train.workers import code_error


def name_error(error: BaseException, journal: Journal, root: str) -> BaseException:
    """Give an error of the user's code in one line, with its place and that of its traceback; others as they are."""
    if isinstance(error, CodeError):
        return _as_train_error(CodeError(error.said, error.stacks, root))
    if not is_user_error(error):
        return error
    found = code_error(error, "stacks/error.txt", journal, STOPPED)
    if user_frames(error):
        return _as_train_error(CodeError(found.said, found.stacks, root, journal.at))
    return TrainError(
        f"{found.said}, which fmray did not expect. Its traceback is in {root}/{found.stacks}.", journal.at
    )


def _as_train_error(error: CodeError) -> TrainError:
    """Give the error as one of the classes that callers know."""
    return TrainError(error.message, error.where)
