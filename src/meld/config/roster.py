"""Rules between the fields that decide which experts there are and who answers with them: k, transfer, adapters,
exclude, router and engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from meld.config.targets import nearest, resolve
from meld.config.transfer import SETTINGS, Masking, masking
from meld.errors import ConfigError

ADAPTER_KEYS = ("path", "base")
"""What may be said about a registered adapter."""

JOINT = "joint"
"""Name of the one adapter that ``expert=joint`` trains."""


def roster_errors(
    tree: Mapping[str, Any], units: Sequence[str], experts: Sequence[str], allow: Sequence[str]
) -> list[ConfigError]:
    """Everything wrong with who is there and who answers.

    Args:
        tree: The plain configuration.
        units: Its units.
        experts: Those with an expert.
        allow: The user's own packages.
    """
    errors = [*_transfer_errors(tree, units, experts), *_adapter_errors(tree)]
    if errors:
        return errors
    shared = bool(declared(tree.get("expert"), "shared", allow))
    registered = tuple(tree.get("adapters") or {})
    own = (JOINT,) if shared and experts else tuple(experts)
    errors.extend(_exclude_errors(tree, own, registered))
    errors.extend(_joint_errors(tree) if shared else _k_errors(tree, own, registered))
    if not shared and declared(tree.get("router"), "token_wise", allow):
        errors.extend(_token_wise_errors(tree, allow))
    return errors


def masking_of(tree: Mapping[str, Any], units: Sequence[str], experts: Sequence[str]) -> Masking:
    """What the configuration's ``transfer`` withholds."""
    node = tree.get("transfer")
    found = node if isinstance(node, Mapping) else {}
    name = str(found.get("name", "none"))
    return masking(name if name in SETTINGS else "none", units, experts, found.get("targets"), found.get("also") or ())


def declared(node: object, name: str, allow: Sequence[str] = ()) -> object:
    """What the class that a node names declares as a class attribute; None if it does not, or cannot be imported."""
    if not isinstance(node, Mapping) or "_target_" not in node:
        return None
    try:
        return getattr(resolve(str(node["_target_"]), "", allow), name, None)
    except ConfigError:
        return None  # reported where the targets are checked


def _transfer_errors(tree: Mapping[str, Any], units: Sequence[str], experts: Sequence[str]) -> list[ConfigError]:
    node = tree.get("transfer")
    if not isinstance(node, Mapping) or node.get("name") not in SETTINGS:
        return []
    errors = [
        ConfigError(f"transfer takes no key {key!r}", where=f"transfer.{key}", fix="remove the key")
        for key in node
        if key not in {"name", "targets", "also"}
    ]
    targets, also = node.get("targets"), node.get("also") or []
    if targets is not None and (not isinstance(targets, (list, tuple)) or not targets):
        fix = f"transfer.targets=[{next(iter(experts), 'abt_buy.em')}]"
        return [*errors, ConfigError(f"targets is {targets!r}, not a list of units", where="transfer.targets", fix=fix)]
    for target in targets or ():
        if target not in experts:
            has = "has no expert of its own to withhold" if target in units else "is no unit of this suite"
            guess = nearest(str(target), experts) or next(iter(experts), "abt_buy.em")
            errors.append(
                ConfigError(
                    f"the target {target!r} {has}; units with an expert are {', '.join(experts) or 'none'}",
                    where="transfer.targets",
                    fix=f"transfer.targets=[{guess}]",
                )
            )
    known = {*units, *(unit.rpartition(".")[0] for unit in units)}
    errors.extend(
        ConfigError(
            f"transfer.also names {name!r}, which is neither a unit nor a dataset of this suite",
            where="transfer.also",
            fix=f"transfer.also=[{nearest(str(name), sorted(known)) or ''}]",
        )
        for name in also
        if name not in known
    )
    if errors:
        return errors
    withheld = masking_of(tree, units, experts).withheld
    if node["name"] != "none" and not [unit for unit in experts if unit not in withheld]:
        of = "task" if node["name"] == "cross_task" else "dataset"
        whose = "the experts of a task" if of == "task" else "a dataset's expert"
        errors.append(
            ConfigError(
                f"transfer={node['name']} withholds {whose}, but no expert of another {of} is left",
                where="transfer",
                fix="suite=real_small, or transfer=none",
            )
        )
    return errors


def _adapter_errors(tree: Mapping[str, Any]) -> list[ConfigError]:
    errors = []
    for name, entry in (tree.get("adapters") or {}).items():
        place = f"adapters.{name}"
        if not str(name).replace("-", "_").isidentifier() or name == JOINT:
            errors.append(
                ConfigError(
                    f"an adapter cannot be called {name!r}",
                    where=place,
                    fix="use letters, digits, - and _, beginning with a letter; dots belong to units",
                )
            )
        if not isinstance(entry, Mapping) or not isinstance(entry.get("path"), str) or not entry["path"]:
            errors.append(ConfigError(f"the adapter {name} has no path", where=place, fix=f"+{place}.path=FOLDER"))
            continue
        errors.extend(
            ConfigError(
                f"an adapter takes no key {key!r}",
                where=f"{place}.{key}",
                fix=f"did you mean {place}.{nearest(str(key), ADAPTER_KEYS) or ADAPTER_KEYS[0]}?",
            )
            for key in entry
            if key not in ADAPTER_KEYS
        )
    return errors


def _exclude_errors(tree: Mapping[str, Any], own: Sequence[str], registered: Sequence[str]) -> list[ConfigError]:
    exclude = tree.get("exclude") or []
    if not isinstance(exclude, (list, tuple)):
        return [ConfigError(f"exclude is {exclude!r}, not a list of experts", where="exclude", fix="exclude=[]")]
    there = [*own, *registered]
    errors = [
        ConfigError(
            f"exclude names {name!r}; the experts are {', '.join(there) or 'none'}",
            where="exclude",
            fix=f"exclude=[{nearest(str(name), there) or ''}]",
        )
        for name in exclude
        if name not in there
    ]
    if there and not errors and set(there) <= set(exclude):
        errors.append(
            ConfigError(
                f"exclude leaves none of the experts {', '.join(there)}",
                where="exclude",
                fix=f"exclude=[{', '.join(there[1:])}]",
            )
        )
    return errors


def _k_errors(tree: Mapping[str, Any], own: Sequence[str], registered: Sequence[str]) -> list[ConfigError]:
    """k against all experts; where masking or ``exclude`` leave fewer, k is lowered and the run says so."""
    k, there = tree.get("k"), [*own, *registered]
    if isinstance(k, bool) or not isinstance(k, int) or not own or k <= len(there):
        return []
    return [
        ConfigError(
            f"k = {k} experts are to be mixed, but there are only {len(there)}: {', '.join(there)}",
            where="k",
            fix=f"k={len(there)}, or a suite with more datasets",
        )
    ]


def _joint_errors(tree: Mapping[str, Any]) -> list[ConfigError]:
    if not tree.get("adapters"):
        return []
    return [
        ConfigError(
            "expert=joint answers everything with one adapter; a registered one would never be asked",
            where="adapters",
            fix="expert=lora, or no adapters",
        )
    ]


def _token_wise_errors(tree: Mapping[str, Any], allow: Sequence[str]) -> list[ConfigError]:
    """A router that routes inside the layers needs an engine that can, and leaves a mixer nothing to do."""
    errors = []
    engine, mixer = tree.get("engine"), tree.get("mixer")
    if isinstance(engine, Mapping) and declared(engine, "open_token_wise", allow) is None:
        errors.append(
            ConfigError(
                "this router routes every token in every layer, which only engine=hf carries out",
                where="router",
                fix="engine=hf, or router=contrastive",
            )
        )
    if isinstance(mixer, Mapping) and not str(mixer.get("_target_")).endswith(".CatMixer"):
        errors.append(
            ConfigError(
                "this router sums the updates itself, token by token, so that no mixer has a say",
                where="mixer",
                fix="mixer=cat, or router=contrastive",
            )
        )
    return errors
