"""Compare a language model of code with a 5-gram over characters: nats per character, programs that parse and that pass.

Run as `python tests/benchmarks/programs.py`; FMRAY_DATA names the folder of real data sets. Both learn from the same files
of Python's standard library (every tenth is test, the one before it validation) and go on with the same prompts, the
sentence and the first line of each function of MBPP's test split. First it is shown that MBPP's own programs pass its
tests, and that an empty one does not. The exit status is 1 where the model misses what is asked.
"""

import argparse
import json
import re
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from families import DATA, ROOT, Json, timed

from fmray.evaluate.intervals import mcnemar
from fmray.evaluate.pass_at_k import Shares
from fmray.evaluate.sandbox import Sandbox
from fmray.evaluate.unit_tests import Verdict, judge
from fmray.inference.model import open_model

FLOOR = 1.40
"""Nats per character that the model may need at most."""
STOPS = ("\n\n", "\ndef ", "\nclass ", "\nif ", "\n@", "\n#")
TEMPERATURE, MOST_TOKENS, MOST_CHARACTERS = 0.8, 150, 600
ORDER = 5


class Grams:
    """Foretell characters from the four before them, interpolated with shorter contexts.

    Args:
        text: To learn from.

    Source: Witten & Bell, "The zero-frequency problem", IEEE Transactions on Information Theory, 1991.
    """

    def __init__(self, text: str) -> None:
        self.signs = sorted(set(text))
        self.number = {sign: place for place, sign in enumerate(self.signs)}
        self.size = len(self.signs) + 1  # the last one stands for what was never seen
        ids = self.ids(text)
        self.grams, self.counts = [], []
        for order in range(1, ORDER + 1):
            found, counts = np.unique(self.keys(ids, order), return_counts=True)
            self.grams.append(found)
            self.counts.append(counts)

    def ids(self, text: str) -> np.ndarray:
        """Number the characters of a text."""
        return np.array([self.number.get(sign, self.size - 1) for sign in text], np.int64)

    def keys(self, ids: np.ndarray, order: int) -> np.ndarray:
        """Name each run of so many characters by one number, of which the last character is the lowest digit."""
        made = np.zeros(len(ids) - order + 1, np.int64)
        for place in range(order):
            made = made * self.size + ids[place : len(ids) - order + 1 + place]
        return made

    def row(self, before: np.ndarray) -> np.ndarray:
        """Give the probability of each character behind some others (V,)."""
        p = np.full(self.size, 1 / self.size)
        for order in range(1, ORDER + 1):
            if order > len(before) + 1:
                break
            context = 0
            for number in before[len(before) - order + 1 :].tolist():
                context = context * self.size + number
            grams = self.grams[order - 1]
            start, end = np.searchsorted(grams, [context * self.size, (context + 1) * self.size])
            if start == end:
                break
            counts = self.counts[order - 1][start:end]
            p = p * (len(counts) / (counts.sum() + len(counts)))
            p[grams[start:end] - context * self.size] += counts / (counts.sum() + len(counts))
        return p

    def nats(self, text: str) -> np.ndarray:
        """Give -ln p of each character."""
        ids = self.ids(text)
        p = np.full(len(ids), 1 / self.size)
        for order in range(1, ORDER + 1):
            grams, counts = self.grams[order - 1], self.counts[order - 1]
            contexts, first = np.unique(grams // self.size, return_index=True)
            totals, kinds = np.add.reduceat(counts, first), np.diff([*first, len(grams)])
            keys = self.keys(ids, order)
            place = np.minimum(np.searchsorted(contexts, keys // self.size), len(contexts) - 1)
            is_known = contexts[place] == keys // self.size
            gram = np.minimum(np.searchsorted(grams, keys), len(grams) - 1)
            hits = np.where(grams[gram] == keys, counts[gram], 0)
            own = p[order - 1 :]
            p[order - 1 :] = np.where(is_known, (hits + kinds[place] * own) / (totals[place] + kinds[place]), own)
        return -np.log(p)

    def go_on(self, prompt: str, random: np.random.Generator) -> str:
        """Go on with a prompt until a stop, or to the most characters."""
        ids = self.ids(prompt).tolist()
        text = ""
        while len(text) < MOST_CHARACTERS:
            p = self.row(np.array(ids[-ORDER + 1 :])) ** (1 / TEMPERATURE)
            p[-1] = 0
            number = int(random.choice(self.size, p=p / p.sum()))
            ids.append(number)
            text += self.signs[number]
            for stop in STOPS:
                if text.endswith(stop):
                    return text.removesuffix(stop)
        return text


def write_rows(folder: Path) -> dict[str, list[str]]:
    """Copy the files of code with the side of each; give the texts of each side."""
    table = pq.read_table(DATA / "python_stdlib_code").select(["path", "source_code"])
    place = np.arange(len(table)) % 10
    side = np.select([place == 9, place == 8], ["test", "val"], "train").tolist()
    folder.mkdir()
    pq.write_table(table.append_column("side", pa.array(side)), folder / "part-0.parquet", row_group_size=20)
    texts = table["source_code"].to_pylist()
    return {name: [text for text, own in zip(texts, side, strict=True) if own == name] for name in ("train", "test")}


def write_prompts(path: Path, num: int) -> pa.Table:
    """Write the sentence and the first line of each function, beside its tests."""
    table = pq.read_table(DATA / "mbpp_code")
    rows = []
    for row in table.to_pylist():
        called = re.search(r"assert\s*\(*\s*(?:not\s+)?(?:\w+\()?(\w+)\(", row["test_list"][0])
        lines = re.findall(r"^def\s+\w+\s*\(.*?\)\s*:", row["code"], re.M)
        named = [line for line in lines if called and re.match(rf"def\s+{called[1]}\s*\(", line)]
        if row["split"] == "test" and lines:
            sentence = " ".join(row["text"].split())
            line = (named or lines)[-1]
            rows.append({**row, "path": f"task {row['task_id']}", "source_code": f"# {sentence}\n{line}"})
    made = pa.Table.from_pylist(rows[:num])
    pq.write_table(made, path, row_group_size=100)
    return made


def told_of(command: list[str], folder: Path) -> tuple[Json, float]:
    """Run a command of fmray."""
    return timed([sys.executable, "-m", "fmray.cli", *command, "--json"], folder)


def learn(folder: Path, test: list[str], changes: Json) -> tuple[str, Json, float]:
    """Run the job; give the directory of the run, nats per character of the test texts, and CPU seconds."""
    job = yaml.safe_load((ROOT / "jobs/python_code.yaml").read_text())
    job["data"] = {"path": "rows", "target": "source_code", "key": "path"}
    job["split"] = {"by": "given", "column": "side"}
    job["train"] |= changes
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    told, seconds = told_of(["run", "job.yaml"], folder)
    found = told["scores"]["test"]["nats_per_token"]
    ids = open_model(told["run_dir"]).vocabulary.encode(test)
    ratio = len(ids.compact().values) / sum(map(len, test))
    return told["run_dir"], {name: found[name] * ratio for name in ("value", "low", "high")}, seconds


def per_file(nats: list[np.ndarray]) -> Json:
    """Give nats per character, with the interval of files as pieces."""
    totals = np.array([own.sum() for own in nats])
    sizes = np.array([len(own) for own in nats])
    value = totals.sum() / sizes.sum()
    reach = 1.96 * np.sqrt(((totals - value * sizes) ** 2).sum()) / sizes.sum()
    return {"value": value, "low": value - reach, "high": value + reach}


def verdicts_of(programs: list[str], rows: list[Json]) -> list[Verdict]:
    """Judge programs as `fmray judge` does."""
    sandbox = Sandbox()

    def one(pair: tuple[str, Json]) -> Verdict:
        return judge(pair[0], pair[1]["test_list"], setup=pair[1]["test_setup_code"], sandbox=sandbox)

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(one, zip(programs, rows, strict=True)))


def spelled(share: Any) -> str:
    """Spell a number and its interval."""
    got = share if isinstance(share, dict) else vars(share)
    return f"{got['value']:.4f} [{got['low']:.4f}, {got['high']:.4f}]"


def main() -> None:
    """Learn, go on, judge, and print side by side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=500)
    parser.add_argument("--train", type=json.loads, default={}, help="JSON of keys of train: that differ from the job")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        texts = write_rows(folder / "rows")
        prompts = write_prompts(folder / "prompts.parquet", asked.prompts)
        grams = Grams("\n".join(texts["train"]))
        theirs = per_file([grams.nats(text) for text in texts["test"]])
        print(f"5-gram: {spelled(theirs)} nats per character of {len(texts['test'])} test files", flush=True)
        run, ours, seconds = learn(folder, texts["test"], asked.train)
        print(f"fmray:  {spelled(ours)} nats per character, asked for {FLOOR}; {seconds:.0f} CPU s", flush=True)

        stops = [word for stop in STOPS for word in ("--stop", stop)]
        command = ["generate", run, "prompts.parquet", "--out", "texts", "--max-new-tokens", str(MOST_TOKENS), *stops]
        _, seconds = told_of([*command, "--temperature", str(TEMPERATURE)], folder)
        print(f"fmray:  {len(prompts)} texts in {seconds:.0f} CPU s", flush=True)
        columns = ["--tests", "test_list", "--setup", "test_setup_code", "--reference", "code"]
        told, _ = told_of(["judge", "texts", "prompts.parquet", *columns, "--out", "verdicts"], folder)
        references = told["references"]
        print(f"MBPP's own programs pass: {spelled(references['passed'])}; {references['reasons']}", flush=True)
        print(f"an empty program passes the tests of {references['vacuous']}", flush=True)
        random = np.random.default_rng(0)
        rows = prompts.to_pylist()
        programs = [row["source_code"] + grams.go_on(row["source_code"], random) for row in rows]
        found = verdicts_of(programs, rows)
        shares = Shares()
        for verdict in found:
            shares.take([verdict])
        for name, share in shares.intervals().items():
            print(f"{name}: fmray {spelled(told['shares'][name])}, 5-gram {spelled(share)}", flush=True)
        print(f"why not: fmray {told['reasons']}, 5-gram {shares.most_reasons()}", flush=True)
        parts = [pq.read_table(path, columns=["parsed"]) for path in sorted((folder / "verdicts").glob("*.parquet"))]
        parsed = np.array(pa.concat_tables(parts)["parsed"].to_pylist())
        other = np.array([verdict.parsed for verdict in found])
        p = mcnemar(int((parsed & ~other).sum()), int((other & ~parsed).sum()))
        print(f"parses more often than the 5-gram: p = {p:.2g}", flush=True)
    if ours["value"] > FLOOR or p > 0.05 or references["vacuous"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
