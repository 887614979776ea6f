"""Hold what the stages of a run share."""

from collections.abc import Sequence
from dataclasses import dataclass

from fmray.data.folds import Fold
from fmray.data.prepare import prepare
from fmray.data.scan import Dataset
from fmray.ensemble.folds import FOLD
from fmray.inference.sequences import RowTexts
from fmray.metrics.metric import Metric
from fmray.records import Ensemble, Json, Member, Predictions, Prepared, Run, Split
from fmray.report.journal import Journal
from fmray.spec.job import Job
from fmray.spec.ref import Ref
from fmray.store import Store
from fmray.targets.codec import codec_of
from fmray.train.predict import predict
from fmray.tune.plans import job_of_member
from fmray.tune.sweep import WorkerCount


@dataclass(frozen=True)
class Context:
    """Hold what is known of a run once its rows are prepared; every later stage reads it.

    Args:
        job, dataset: What is asked, of which files.
        run: With its directory, in `store`.
        journal: Gets every event.
        task: The objective, decided.
        prepared: The rows, with every other way in which rows of members were prepared.
        metric: The primary one.
        device: Where this process computes.
        workers: On how many a pack trains; 0 for this process.
        gates: What gates have found so far, as it will stand in `gates.json`.
    """

    job: Job
    dataset: Dataset
    run: Run
    store: Store
    journal: Journal
    task: Ref
    prepared: Prepared
    metric: Metric
    device: str
    workers: WorkerCount
    gates: tuple[Json, ...]

    def way_of(self, member: Member) -> tuple[Job, int | None]:
        """Say how the rows of a member were prepared: by which steps, and what fold these learned nothing from."""
        folds = self.job.train.folds
        return job_of_member(self.job, member), member.params.get(FOLD) if folds and folds.strict else None

    def prepare_as(self, job: Job, fold: int | None = None) -> Prepared:
        """Give the rows of a structure, which are those of the job unless it has steps of its own, or a fold has."""
        if fold is None and job.prepared_steps == self.job.at({}).prepared_steps:
            return self.prepared
        folds = self.job.train.folds
        left_out = None if folds is None or fold is None else Fold.of(fold, folds.n, self.job.train.seed)
        return prepare(self.dataset, job, task=self.task, store=self.store, report=self.journal, fold=left_out)

    def predict(self, members: Sequence[Member], ensemble: Ensemble, subject: str, split: Split) -> Predictions:
        """Predict a split by an ensemble of members, into the table of a subject."""
        path = self.table(subject, split)
        over_ray = self.workers != 0
        generates = codec_of(self.prepared.target).generates and subject == "model"
        return predict(
            members,
            ensemble,
            prepared=self.prepared,
            split=split,
            task=self.task,
            path=path,
            device=self.device,
            over_ray=over_ray,
            generate=RowTexts(ensemble, self.prepared, self.task) if generates else None,
        )

    def table(self, subject: str, split: Split) -> str:
        """Name the table of a subject's predictions; those of test rows are sealed."""
        folder = "sealed" if split == "test" else "predictions"
        return f"{self.run.root}/{folder}/{split}{'' if subject == 'model' else f'-{subject}'}.parquet"
