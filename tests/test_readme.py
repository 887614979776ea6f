"""The README is a promise: what it shows is tried here, what it links to is there."""

import re
import tomllib
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from fmray.cli import answer, options
from fmray.cli import app as cli
from fmray.spec.load import job_from

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINES = TEXT.splitlines()
NOUNS = ["Job", "Dataset", "Step", "Prepared", "Task", "Model", "Member", "Predictions", "Ensemble", "Scores", "Run"]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def test_installation_and_the_first_job_stand_in_the_first_25_lines():
    assert blocks("bash")[:2] == [
        "pip install -c constraints.txt -e . && fmray run jobs/quickstart.yaml\n",
        "pip install -c constraints.txt -e '.[test]' && pytest\n",
    ]
    assert max(place for place, line in enumerate(LINES[:40], 1) if line.startswith("pip install")) <= 25


def test_the_first_paragraph_is_one_sentence():
    paragraph = TEXT.split("\n\n")[1].replace("\n", " ")
    assert len(re.findall(r"\.(\s|$)", paragraph)) == 1


def test_the_job_it_shows_is_valid(tmp_path, monkeypatch):
    monkeypatch.setenv("FMRAY_DATA", "/data")
    job = job_from(YAML(typ="safe").load(blocks("yaml")[0]), tmp_path)
    assert job.data.path == "/data/adult"


def test_it_has_the_eleven_nouns_and_no_twelfth():
    table = TEXT.split("## Eleven nouns")[1].split("##")[0]
    assert re.findall(r"^\| (\w+) \|", table, re.MULTILINE) == ["noun", *NOUNS]


def test_it_names_every_command_and_no_other():
    named = set(re.findall(r"`fmray (\w+)", TEXT))
    commands = {command.name or command.callback.__name__ for command in cli.app.registered_commands}
    assert named == commands | {group.name for group in cli.app.registered_groups}


def test_it_names_the_exit_codes_of_the_command_line():
    codes = {int(code) for code in re.findall(r"(\d+) ", TEXT.split("Exit codes:")[1].split(". ")[0])}
    assert codes == {options.DONE, options.FAILED, options.GATE_FAILED, options.BAD_INPUT, answer.INTERRUPTED}


def test_its_floors_are_those_that_are_tested():
    architecture = (ROOT / "tests/test_architecture.py").read_text(encoding="utf-8")
    floors = re.findall(r"^    \((\"[a-z_]+\",? ?.*)\),$", architecture, re.MULTILINE)
    tested = [re.findall(r"\"(\w+)\"", floor) for floor in floors]
    page = (ROOT / "docs/contributing.md").read_text(encoding="utf-8")
    drawn = page.split("```\ncli >")[1].split("```")[0]
    assert [re.findall(r"\w+", floor) for floor in f"cli >{drawn}".split(">")] == tested


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_links_to_is_there(page):
    links = re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


def test_it_is_at_most_150_lines_long():
    assert len(LINES) <= 150


def test_it_leads_to_every_page_of_the_documentation():
    linked = {
        (page.parent / link).resolve() for page in PAGES for link in re.findall(r"\]\(([^)#]+)\)", page.read_text())
    }
    assert [page.name for page in PAGES if page not in linked and page != PAGES[0]] == []


def test_constraints_pin_every_dependency_and_name_no_registry():
    pinned = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            name, version = re.fullmatch(r"([A-Za-z0-9_.-]+)==([A-Za-z0-9_.!]+)", line).groups()
            pinned[re.sub(r"[-_.]+", "-", name).lower()] = version
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [wanted for name, extra in project["optional-dependencies"].items() if name != "all" for wanted in extra]
    for wanted in (*project["dependencies"], *extras):
        name = re.match(r"[A-Za-z0-9_.-]+", wanted).group()
        assert re.sub(r"[-_.]+", "-", name).lower() in pinned, wanted
    assert pinned["torch"] == "2.13.0"
    assert int(pinned["pyarrow"].split(".")[0]) < 26


def test_all_extras_together_are_every_extra():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert extras.pop("all") == [f"fmray[{','.join(extras)}]"]


def test_the_licence_is_whole():
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert text.lstrip().startswith("Apache License\n")
    assert "END OF TERMS AND CONDITIONS" in text
    assert [f"   {section}. " in text for section in range(1, 10)] == [True] * 9
