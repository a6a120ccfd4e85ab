"""Which settings are scored after which: each alone, or with warm_start an attack's growing radii in one chain.

Each link of a chain has a record file of its own.
"""
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from attacks import NORMS, Attack
from engine.records.naming import make_label
from engine.records.rows import drop_keys
from engine.records.store import Records
from utils.distributed import is_main
from utils.strict_json import canonical

CLEAN = {"attack": "none", "norm": None, "eps": 0.0, "steps": 0}


@dataclass(frozen=True)
class Link:
    """An attack, None for clean images, and its settings as recorded."""

    attack: Attack | None
    settings: dict


def plan_chains(attacks, *, warm_start: bool, amp: bool = False, attack_amp: bool = False,
                transfer_from: list[dict] | None = None) -> list[list[Link]]:
    """Return chains: clean, then each attack or member once; with warm_start an attack's growing radii in one chain.

    transfer_from: what tells the networks that attacks see from others, None if it is the one that is scored.
    """
    single = {canonical(member.settings()): member for attack in attacks for member in attack.members or [attack]}
    clean = [Link(None, {**CLEAN, "amp": True} if amp else CLEAN)]
    found = [[attack] for attack in single.values()]
    if warm_start:
        by_kind = {}
        for key, attack in single.items():
            growing = attack.settings()["norm"] in NORMS  # not a corruption's severity
            kind = canonical(drop_keys(attack.settings(), "eps", "step_size")) if growing else key
            by_kind.setdefault(kind, []).append(attack)
        found = [sorted(chain, key=lambda attack: attack.eps) for chain in by_kind.values()]
    how = {"attack_amp": True} if attack_amp else {}
    how |= {"transfer_from": transfer_from} if transfer_from else {}
    return [clean, *([_make_link(attack, chain[:place], how) for place, attack in enumerate(chain)] for chain in found)]


def open_records(stack: ExitStack, chain: list[Link], header: dict, folder: Path) -> list[Records]:
    """Open the record file of each link, to be closed with `stack`; on rank 0 only."""
    return [stack.enter_context(Records(folder / "records", {"attack": link.settings, **header},
                                        label=make_label(link.settings))) for link in (chain if is_main() else [])]


def _make_link(attack: Attack, smaller: list[Attack], how: dict) -> Link:
    before = [{key: value for key, value in other.settings().items() if key in ("eps", "step_size")}
              for other in smaller]
    return Link(attack, {**attack.settings(), **how, "warm_start": before})
