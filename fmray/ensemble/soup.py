"""Average the parameters of members into one model, which then costs no more than one."""

from fmray.ensemble.candidates import Candidates
from fmray.ensemble.single import single
from fmray.records import Ensemble, Member
from fmray.spec.components import ensembles as declared


def soup(candidates: Candidates, params: declared.Soup = declared.Soup()) -> Ensemble:
    """Average the parameters of members of one pack: that of the best member.

    With `greedy`, members are added from the best on, each only if validation gets no worse; else all of the pack are.

    Source: Wortsman et al., "Model soups: averaging weights of multiple fine-tuned models", ICML 2022.
    """
    scores = {m.index: candidates.signed(o) for m, o in zip(candidates.members, candidates.outputs, strict=True)}
    best = next(m for m in candidates.members if m.index == single(candidates).members[0])
    pack = [member for member in candidates.members if _kin(member) == _kin(best)]
    pack.sort(key=lambda member: (member.index != best.index, -scores[member.index], member.index))
    taken = pack
    score = float("-inf")
    if params.greedy:
        taken = [best]
        score = scores[best.index]
        for member in pack[1:]:
            tried = candidates.signed(candidates.combined(_mixed([*taken, member])))
            if tried >= score:
                taken = [*taken, member]
                score = tried
    return _mixed(taken)


def _kin(member: Member) -> tuple[int, int, str]:
    return member.structure, member.pack, member.prepared


def _mixed(members: list[Member]) -> Ensemble:
    num = len(members)
    indices = tuple(member.index for member in members)
    reason = f"mean parameters of {num} members of pack {members[0].pack}"
    return Ensemble("soup", indices, (1.0 / num,) * num, reason=reason, combine="soup")
