"""Which pods may reach which, by the NetworkPolicies: a small reading of their rules.

A connection is allowed when the rules of egress at its start and those of ingress at its end both allow it; where no
policy selects a pod for a direction, everything is allowed there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.manifests.kustomize import Object
from tests.manifests.overlays import of_kind


@dataclass(frozen=True)
class End:
    """One end of a connection: a pod by its labels and namespace, or an address outside (`labels` None)."""

    labels: dict[str, str] | None
    namespace: str = "ftmeta"
    namespace_labels: tuple[tuple[str, str], ...] = ()
    named_ports: tuple[tuple[str, int], ...] = ()


WORLD = End(None)


def allowed(objects: list[Object], start: End, end: End, port: int) -> bool:
    return _allows(objects, "Egress", start, end, port, end) and _allows(objects, "Ingress", end, start, port, end)


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    if not selector.get("matchLabels", {}).items() <= labels.items():
        return False
    for rule in selector.get("matchExpressions", []):
        assert rule["operator"] == "In", rule
        if labels.get(rule["key"]) not in rule["values"]:
            return False
    return True


def _allows(objects: list[Object], direction: str, mine: End, other: End, port: int, end: End) -> bool:
    if mine.labels is None or mine.namespace != "ftmeta":
        return True  # not ours to say
    policies = [
        policy["spec"]
        for policy in of_kind(objects, "NetworkPolicy")
        if direction in policy["spec"]["policyTypes"] and selects(policy["spec"]["podSelector"], mine.labels)
    ]
    peers = "to" if direction == "Egress" else "from"
    rules = [rule for spec in policies for rule in spec.get(direction.lower(), [])]
    return not policies or any(_port(rule, port, end) and any(_peer(p, other) for p in rule[peers]) for rule in rules)


def _port(rule: dict[str, Any], port: int, end: End) -> bool:
    named = dict(end.named_ports)
    return "ports" not in rule or any(named.get(entry["port"], entry["port"]) == port for entry in rule["ports"])


def _peer(peer: dict[str, Any], other: End) -> bool:
    if "ipBlock" in peer:
        return other.labels is None and peer["ipBlock"]["cidr"] == "0.0.0.0/0"
    if other.labels is None:
        return False
    labels = {"kubernetes.io/metadata.name": other.namespace, **dict(other.namespace_labels)}
    if "namespaceSelector" in peer:
        if not selects(peer["namespaceSelector"], labels):
            return False
    elif other.namespace != "ftmeta":
        return False
    return selects(peer.get("podSelector", {}), other.labels)
