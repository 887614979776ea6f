import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fake_sweep import SPACE, fake_account, fake_members
from report.test_card import HOSTILE, card, read

from fmray.metrics.metric import ranked
from fmray.records import SearchAccount
from fmray.report import sweep_plots
from fmray.report.card import read_card, render, write_card
from fmray.report.sweep import believed, effort, section
from fmray.store import Store


def swept(num=200, space=None, kind="class"):
    members, rungs = fake_members(num, space)
    return replace(card(), members=tuple(members), search=fake_account(members, rungs, space, kind))


@pytest.fixture(scope="module")
def page():
    return render(swept())


@pytest.mark.parametrize("kind", ["class", "number"])
def test_the_section_is_whole_escaped_and_loads_nothing(kind):
    space = {**SPACE, HOSTILE: {"kind": "choice", "options": [HOSTILE, "b"], "packable": False}}
    made = swept(60, space, kind)
    page = render(replace(made, search=replace(made.search, failed=({"member": 3, "reason": HOSTILE},))))
    reader = read(page)
    assert reader.loads == []
    assert "script" not in reader.tags
    assert "<script>alert" not in page
    assert page.count("<svg") == page.count("</svg>") == page.count('role="img"')
    assert page.count("<figure>") <= page.count("<details>")


def test_everything_that_was_asked_for_is_on_the_page(page):
    for title in ("The sweep", "The best 20", "Rungs", "What the scores depend on", "Finalists over seeds",
                  "What differing is worth", "Pairwise disagreement", "What the best have in common",
                  "Scores by parameter", "Members that failed"):  # fmt: skip
        assert title in page
    assert "which is about" in page  # how much too good the best is
    for path in SPACE:
        assert path in page


def test_500_members_stay_small_and_curves_are_those_of_the_best():
    made = swept(500)
    page = render(made)
    assert len(page.encode()) < 2_000_000
    assert "Those of the ensemble and the best others: 60 of 500 members." in page
    assert page.count('class="curve"') <= 3 * 60
    assert "more in members.parquet" in page


def test_without_a_search_there_is_no_section():
    assert "The sweep" not in render(card())


def test_a_card_with_a_sweep_read_back_makes_the_same_page(tmp_path: Path):
    store = Store(str(tmp_path))
    made = replace(swept(30), root=store.path("runs", "a"))
    page = Path(write_card(made, store)).read_bytes()
    assert read_card(made.root, store).search == SearchAccount.from_json(made.search.to_json())
    write_card(read_card(made.root, store), store)
    assert Path(f"{made.root}/report.html").read_bytes() == page


def test_a_sweep_of_which_little_is_known_still_has_a_section():
    bare = SearchAccount({}, 1, 1, 1, 3, 3, 0.5)
    read(render(replace(card(), search=bare)))
    nobody = replace(card(), members=tuple(m for m in fake_members(50)[0] if m.status == "failed"))
    read(render(replace(nobody, search=replace(bare, space=SPACE))))


def test_members_are_ranked_by_score_whichever_way_it_runs_and_the_earlier_first():
    first, second, third, *_ = fake_members(60)[0]
    some = [replace(first, val_score=0.5), replace(second, val_score=0.9), replace(third, val_score=0.5),
            replace(first, index=9, val_score=None), replace(first, index=8, val_score=math.nan)]  # fmt: skip
    assert [m.index for m in ranked(some, True)] == [1, 0, 2]
    assert [m.index for m in ranked(some, False)] == [0, 2, 1]


def test_finalists_are_not_points_of_the_search():
    members, rungs = fake_members(30)
    again = [replace(member, index=100 + member.index, role="finalist") for member in members[:5]]
    account, scores = fake_account(members, rungs), card().scores
    assert section(account, [*members, *again], scores) == section(account, members, scores)


@pytest.mark.parametrize(("higher_is_better", "stored", "shown"), [(True, 0.25, "0.2500"), (False, -0.25, "0.2500")])
def test_the_cutoff_of_a_rung_is_shown_as_the_metric_has_it(higher_is_better, stored, shown):
    rung = {"epoch": 2, "reached": 4, "survived": 2, "cutoff": stored}  # scores are compared higher for better
    account = SearchAccount({}, 4, 1, 1, 8, 8, 1.0, rungs=(rung, {**rung, "cutoff": None}))
    made = section(account, [], replace(card().scores, higher_is_better=higher_is_better))
    (figure,) = [figure for figure in made.figures if figure.title == "Rungs"]
    assert [row[3] for row in figure.rows] == [shown, "not defined"]


def test_what_a_sweep_took_is_said_in_words():
    account = SearchAccount({}, 200, 8, 8, 1000, 4000, 12.3, failed=({"member": 1, "reason": "x"},))
    assert effort(account) == (
        "200 members of 8 structures in 8 packs: 1,000 epochs of members trained, 75 % less than the 4,000 that all "
        "would have taken to the end, in 12.3 s; 1 member failed."
    )
    assert "less than" not in effort(replace(account, full_epochs=1000))


def test_luck_is_named_where_there_is_some_and_only_there():
    found = {"metric": "accuracy", "raw": 0.93, "corrected": 0.9, "low": 0.87, "high": 0.92, "optimism": 0.03,
             "error": 0.001, "num_members": 50, "num_rows": 500, "replicates": 500, "winner": 3}  # fmt: skip
    assert "The best of 50 members has accuracy 0.9300 on validation, which is about 0.0300 too good" in believed(found)
    assert "0.9000 [0.8700, 0.9200]" in believed(found)
    assert "no luck" in believed({**found, "corrected": 0.9295, "optimism": 0.0005})
    assert "too few rows" in believed({**found, "corrected": math.nan, "optimism": math.nan})


@pytest.mark.parametrize(
    ("range_", "inside", "places"),
    [({"kind": "uniform", "low": 0.0, "high": 0.5}, 0.25, 0.5), ({"kind": "log_uniform", "low": 1e-4, "high": 1e-2}, 1e-3, 0.5),
     ({"kind": "int", "low": 0, "high": 100}, 25, 0.25), ({"kind": "int", "low": 1, "high": 3}, 2, 0.5), ({"kind": "log_int", "low": 1, "high": 100}, 10, 0.5),
     ({"kind": "choice", "options": [None, [1, 2], "x"]}, [1, 2], 0.5)],
    ids=lambda v: v.get("kind") if isinstance(v, dict) else "",
)  # fmt: skip
def test_values_are_placed_by_the_kind_of_their_range(range_, inside, places):
    scale = sweep_plots.Scale(range_)
    assert scale.share(scale.at(inside)) == pytest.approx(places)
    marks = scale.ticks()
    assert 2 <= len(marks) <= 9
    assert all(scale.low - 1e-9 <= place <= scale.high + 1e-9 for place, _ in marks)
    assert math.isnan(scale.share(math.nan))


@pytest.mark.parametrize("range_", [{"kind": "log_uniform", "low": 2e-3, "high": 3e-3}, {"kind": "log_int", "low": 8, "high": 9},
                                    {"kind": "log_uniform", "low": 2.1e-3, "high": 2.9e-3}, {"kind": "uniform", "low": 1.0, "high": 1.0}, {"kind": "log_uniform", "low": 1e-12, "high": 1.0}])  # fmt: skip
def test_narrow_and_wide_ranges_are_drawn(range_):
    members = [replace(m, params={"p": range_["low"]}) for m in fake_members(10)[0]]
    for figure in sweep_plots.slices("r2", {"p": range_}, members):
        assert "nan" not in figure.svg


def test_stopped_members_are_drawn_lighter_and_each_scored_member_once(page):
    members = [m for m in fake_members(200)[0] if m.val_score is not None]
    (figure,) = sweep_plots.slices("roc_auc", {"model.mlp.dropout": SPACE["model.mlp.dropout"]}, members)
    stopped = sum(sweep_plots.is_stopped(m) for m in members)
    assert 0 < stopped < len(members)
    assert figure.svg.count('class="early"') == stopped
    assert figure.svg.count('class="point"') == len(members) - stopped


def test_no_figure_has_a_number_that_is_none(page):
    for attribute in re.findall(r'\b(?:points|cx|cy|x|y|x1|y1|width|height)="([^"]*)"', page):
        assert not re.search("nan|inf", attribute)


def test_the_heat_map_shows_the_numbers_of_the_matrix():
    found = {"members": [4, 9], "measure": "mse", "mean_member": 1.0, "ambiguity": 0.25, "ensemble": 0.75,
             "compared": "correlation", "matrix": [[1.0, 0.5], [0.5, None]]}  # fmt: skip
    figure = sweep_plots.differences(found)
    assert figure.rows == [["4", "1.0000", "0.5000"], ["9", "0.5000", "not defined"]]
    assert re.findall(r'fill-opacity="([\d.]+)"', figure.svg) == ["1.00", "0.50", "0.50", "0.00"]


def test_parallel_coordinates_draw_the_best_100_through_the_most_important_parameters():
    members = ranked(fake_members(300)[0], True)
    figure = sweep_plots.parallel("roc_auc", SPACE, list(SPACE), members)
    assert figure.svg.count("<polyline") == len(figure.rows) == 100
    assert figure.svg.count("thin best") == 10
    assert figure.rows[0][0] == str(members[0].index)
    assert float(figure.rows[0][-1]) == pytest.approx(np.max([m.val_score for m in members]), abs=1e-4)
