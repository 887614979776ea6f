"""Run a sample of the stranger's campaign; `python tests/chaos/strangers.py --runs 120` runs all of it."""

import pytest
from chaos.strangers import CASES, campaign


@pytest.mark.slow
def test_altered_models_jobs_and_stores_run_nothing_hang_nowhere_and_are_refused_by_name(tmp_path):
    said = []
    counts = campaign(len(CASES) + 5, 1, tmp_path, said.append)
    assert counts["ran with --trust-code"], "the canary is blind"
    assert not said, "\n".join(said)
