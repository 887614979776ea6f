"""Open the model that a run has written again, in a fresh process, and judge what it predicts there."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from fmray.errors import FmrayError
from fmray.inference import fresh
from fmray.inference.golden import choose_rows
from fmray.inference.reopen import Asked, ask, read_answer
from fmray.records import Ensemble, Json, Member
from fmray.report.gates import say
from fmray.rigour.gates import ArtefactEvidence, Golden, run_gates
from fmray.stages.context import Context
from fmray.store import redact
from fmray.store.manifest import measure
from fmray.store.places import files_of
from fmray.train.device import computing

DRAFT = "a draft: its model was not opened again."


@contextmanager
def reopening(
    context: Context, members: Sequence[Member], ensemble: Ensemble
) -> Iterator[Callable[[], tuple[Json, ...]]]:
    """Start a fresh process for the length of a `with` block, in which the model of a run is written.

    Args:
        members: Those of the ensemble, in its order.

    Yields:
        Lets it open the model, and gives what the gates of the artefact find.
    """
    if context.job.rigour.profile == "draft":
        yield partial(_judge, context, ArtefactEvidence(reason=DRAFT))
        return
    with ExitStack() as stack:
        try:
            answer = stack.enter_context(fresh.fresh_process(hidden=context.job.folder))
        except OSError as error:  # too many processes, or no memory for another one
            reason = f"no fresh process could be started: {error.strerror or error}."
            yield partial(_judge, context, ArtefactEvidence(reason=reason))
            return
        yield lambda: _judge(context, _reopened(context, members, ensemble, answer))


def _reopened(
    context: Context, members: Sequence[Member], ensemble: Ensemble, answer: Callable[[Path], str]
) -> ArtefactEvidence:
    """Give what the fresh process finds.

    Args:
        answer: As `fresh.fresh_process` gives it.
    """
    prepared = context.prepared
    try:
        rows = choose_rows(context.dataset, prepared)
    except FmrayError as error:
        return ArtefactEvidence(reason=f"no validation row can be read again: {redact(str(error))}")
    here = rows.predicted(members, ensemble, prepared, context.task)
    said = rows.said(context.table("model", "val"), prepared)
    golden = Golden(rows.as_read.num_rows, here, fresh=here, said=said, device=context.device)
    model = f"{context.run.root}/model"
    asked = Asked(
        model,
        files=measure(model, list(files_of(model).sizes(model))),
        trust=bool(context.job.modules()),  # they ran in this job; a model without any needs none
        computing=computing(),
        target=prepared.target.to_json(),
    )
    with tempfile.TemporaryDirectory(prefix="fmray-golden-") as folder:
        ask(Path(folder), asked, rows.as_read)
        return evidence_of(Path(folder), answer(Path(folder)), golden)


def evidence_of(folder: Path, problem: str, golden: Golden) -> ArtefactEvidence:
    """Give what a fresh process found.

    Args:
        problem: Why it gave no answer; "" if it gave one.
        golden: What this process knows of the rows.
    """
    if problem:
        return ArtefactEvidence(error=redact(problem))
    found, fresh_output = read_answer(folder)
    if found.error:
        return ArtefactEvidence(error=redact(found.error), pickles=found.pickles)
    return ArtefactEvidence(replace(golden, fresh=fresh_output, faulty=found.faulty), pickles=found.pickles)


def _judge(context: Context, evidence: ArtefactEvidence) -> tuple[Json, ...]:
    found = run_gates("artefact", evidence, context.job.rigour)
    say(found, context.journal.note)
    return found
