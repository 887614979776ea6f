"""Generate the text of rows from what they hold, as the task of the model says: greedily or by beams.

Neither the size of a batch nor which rows are predicted together changes a text; see `fmray.inference.generate`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from fmray.catalogue import TASKS
from fmray.data.cut import END
from fmray.data.vocabulary import Vocabulary
from fmray.inference.generate import Generator
from fmray.inference.generation import Generation
from fmray.ragged import Blocks
from fmray.records import Ensemble, Prepared
from fmray.spec.ref import Ref
from fmray.train.next_tokens import SourceTokens
from fmray.train.predict import Predictor


def generation_of(task: Ref) -> Generation:
    """Say how a task generates text."""
    params = TASKS.read(task.name, task.params)
    return Generation(
        max_new_tokens=params.max_new_tokens,
        temperature=0.0 if params.beams == 1 else None,
        beams=params.beams,
        length_penalty=params.length_penalty,
        stop_tokens=(END,),
    )


@dataclass(frozen=True)
class RowTexts:
    """Give what generates the texts of rows, as `fmray.train.predict.Generate` asks for it.

    Args:
        ensemble: How the probabilities of members are averaged.
        prepared: How rows became inputs.
        task: How text is generated.
    """

    ensemble: Ensemble
    prepared: Prepared
    task: Ref

    def __call__(self, predictor: Predictor) -> Callable[[Mapping[str, Blocks]], list[str]]:
        """Take over the members of a predictor, once for all rows."""
        source = SourceTokens.of(predictor, self.ensemble)
        vocabulary = Vocabulary(self.prepared.steps, self.prepared.target.columns[0])
        generator = Generator(source, vocabulary, generation_of(self.task))

        def texts_of(rows: Mapping[str, Blocks]) -> list[str]:
            """Give the texts; that of a row without a token to generate it from is empty."""
            tokens = rows[predictor.sources[0]].arrays[source.source].compact()
            ids = np.split(tokens.values.astype(np.int64), tokens.starts[1:])
            filled = np.flatnonzero(tokens.lengths).tolist()
            texts = [""] * len(tokens)
            found, _ = generator.from_sources([ids[row] for row in filled], filled)
            for row, (one,) in zip(filled, found, strict=True):
                texts[row] = one.text
            return texts

        return texts_of
