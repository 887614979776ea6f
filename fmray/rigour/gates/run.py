"""Run the gates of a stage, and say which of them fail a run."""

from collections.abc import Sequence
from typing import Any

from fmray.catalogue import GATES, UNWAIVABLE
from fmray.errors import GateError, SpecError
from fmray.records import Json
from fmray.registry import nearest
from fmray.rigour.gates.gate import Evidence, Gate, Stage
from fmray.spec.sections import Rigour


def run_gates(stage: Stage, evidence: Any, rigour: Rigour) -> tuple[Json, ...]:
    """Run every gate of a stage.

    Args:
        evidence: As gates of this stage need it; see `gate`.

    Returns:
        [{"gate", "name", "status", "text"}], in the order of the catalogue; numbers that were compared as "value" and
        "limit", the rows that it would take as "rows", and "stage" unless it is "result".

    Raises:
        SpecError: If a waiver names no gate, or one that cannot be waived.
    """
    for name in rigour.waive:
        if name in UNWAIVABLE:
            raise SpecError(f"{name} {UNWAIVABLE[name]}", "rigour.waive")
        if name not in GATES:
            raise SpecError(f"'{name}' is no gate. {nearest(name, GATES)}", "rigour.waive")
    found = []
    for name in GATES:
        gate: Gate = GATES.find(name)
        if gate.stage != stage:
            continue
        plain = gate(evidence, rigour).to_json()
        if plain["status"] == "fail" and name in rigour.waive:
            plain |= {"status": "waived", "text": f"{plain['text']} Waived: {rigour.waive[name]}"}
        elif plain["status"] == "fail" and rigour.profile == "draft":
            plain |= {"status": "warn", "text": f"{plain['text']} A draft; not to be promoted."}
        at = {} if stage == "result" else {"stage": stage}
        found.append({"gate": name, "name": gate.name, **plain, **at})
    return tuple(found)


def judge(evidence: Evidence, rigour: Rigour) -> tuple[Json, ...]:
    """Run every gate of the result; see `run_gates`."""
    return run_gates("result", evidence, rigour)


def failed(gates: Sequence[Json]) -> tuple[str, ...]:
    """Name the gates that fail a run."""
    return tuple(gate["gate"] for gate in gates if gate["status"] == "fail")


def refuse_failed(gates: Sequence[Json]) -> None:
    """Stop a run whose data or training failed a gate.

    Raises:
        GateError: Naming the gates, with what they found.
    """
    if not (names := failed(gates)):
        return
    texts = " ".join(f"{gate['gate']} {gate['name']}: {gate['text']}" for gate in gates if gate["gate"] in names)
    free = [name for name in names if name not in UNWAIVABLE]
    mend = "Mend the data" if any(gate.get("stage") == "data" for gate in gates) else "Change the job"
    cure = f" {mend}, or waive {', '.join(free)} under rigour.waive with a reason." if free else ""
    raise GateError(f"{texts}{cure}", "rigour", gates=names)
