"""docs/reports/serve.md, made of the numbers that bench_serve.py keeps; a part that was not measured is said to be."""

from __future__ import annotations

from typing import Any

_NEW = "a new task each time"
_TRIED = """## What was tried

- Answers are made in two threads beside the event loop: more only share the same cores, and with one a 1,000-row
  dataset holds up everybody else.
- A question without rows that comes again is answered from memory, before anything is parsed: 0.2 ms of processor time
  in the replica. What is left of the difference to the empty deployment is Serve's own: a body to fetch from the proxy
  (the empty one reads none) and 8 kB to carry back.
- For a new task, time goes into predicting half a thousand candidates. Encoding them once, counting work for all at
  once, and asking for deviations of those that are taken only, brings a recommendation from 65 to 7 ms of processor
  time.
- `RAY_SERVE_THROUGHPUT_OPTIMIZED=1` made both deployments a little faster and left the ratios as they were, as far as a
  busy machine tells.
- A replica reserves no CPU and imports no torch, so that it stays small; a selector whose surrogates look at the
  zero-shot loss, and the first export (250 MB), are what makes it load torch.
"""


def verdicts(results: dict[str, Any]) -> list[tuple[str, str, bool]]:
    """(target, what was measured, whether it is met), of what was measured."""
    found: list[tuple[str, str, bool]] = []
    if "speed" in results:
        measured = results["speed"]["measured"]
        cases = measured["cases"]

        def ratio(quantity: str, connections: str) -> float:
            return float(cases[f"{_NEW}, {connections}"][quantity] / cases[f"empty, {connections}"][quantity])

        p50, p99 = ratio("p50_ms", "1 connection"), ratio("p99_ms", "1 connection")
        throughput = ratio("per_s", "16 connections")
        rows_ms = cases["1,000 rows, 1 connection"]["p50_ms"]
        memory_mb = measured["memory_mb"]
        broken = sum(case["failed"] + case["refused"] for case in cases.values())
        found += [
            ("median latency at most 2 x the empty deployment's", f"{p50:.2f} x", p50 <= 2),
            ("throughput at 16 connections at least half of it", f"{throughput:.2f} x", throughput >= 0.5),
            ("p99 at most 4 x", f"{p99:.2f} x", p99 <= 4),
            ("1,000 rows in at most 300 ms at the median", f"{rows_ms:.0f} ms", rows_ms <= 300),
            ("a replica of at most 700 MB", f"{memory_mb:.0f} MB", memory_mb <= 700),
            ("every request answered", f"{broken:.0f} were not", broken == 0),
        ]
    if "kills" in results:
        measured = results["kills"]["measured"]
        slowest = max((one for one in measured["recovered_s"] if one is not None), default=0.0)
        never = sum(one is None for one in measured["recovered_s"])
        recovered = f"{slowest:.0f} s at most" + (f", and {never} times not before the load ended" if never else "")
        found += [
            ("no wrong answer", f"{measured['wrong']} of {measured['requests']:,}", measured["wrong"] == 0),
            ("no answer lost without a clear error", f"{measured['lost']}", measured["lost"] == 0),
            ("full speed within 15 s of a kill", recovered, slowest <= 15),
        ]
    return found


def page(results: dict[str, Any]) -> str:
    parts = [
        "# The service: speed, and what it stands\n",
        "Made by `make bench-serve`; `serve.json` has all numbers.\n",
    ]
    rows = [
        f"| {target} | {measured} | {'met' if met else '**missed**'} |" for target, measured, met in verdicts(results)
    ]
    if rows:
        parts.append("\n".join(["| target | measured | |", "|---|---|---|", *rows]) + "\n")
    parts.append("## Beside an empty deployment\n")
    parts.append(_speed(results["speed"]) if "speed" in results else "Not measured yet: `speed`.\n")
    parts.append("## While replicas are killed\n")
    parts.append(_kills(results["kills"]) if "kills" in results else "Not measured yet: `kills`.\n")
    parts.append(_TRIED)
    return "\n".join(parts)


def _speed(part: dict[str, Any]) -> str:
    measured = part["measured"]
    rows = [
        f"| {name} | {case['p50_ms']:.1f} | {case['p99_ms']:.1f} | {case['per_s']:.0f} | {case['requests']:,.0f} |"
        for name, case in measured["cases"].items()
    ]
    table = ["| case | median, ms | p99, ms | requests/s | requests |", "|---|---|---|---|---|", *rows]
    selector = measured["selector"]
    how = (
        "Meta-features in the request, five recommendations in the answer, one replica, selector "
        f"`{selector['name']}` of {selector['runs']:,} runs. wrk with one thread on the same cores; medians over "
        f"{measured['rounds']} rounds of {measured['seconds']} s a case, in turns."
    )
    return f"{how}\n\n" + "\n".join(table) + f"\n\n{_circumstances(part)}\n"


def _kills(part: dict[str, Any]) -> str:
    measured = part["measured"]
    errors = ", ".join(f"{count} x {kind}" for kind, count in measured["attempts_that_failed"].items()) or "none"
    recovered = ", ".join("not" if one is None else f"{one:.0f}" for one in measured["recovered_s"]) or "no kill"
    return (
        f"{measured['requests']:,} requests on 32 connections, two replicas, {measured['kills']} kills in "
        f"{measured['seconds']:.0f} s: {measured['right']:,} right answers, {measured['wrong']} wrong, "
        f"{measured['refused']} given up after eight clear errors, {measured['lost']} lost. Attempts that failed and "
        f"were asked again: {errors}. {measured['per_s_before']:.0f} "
        f"answers a second before the first kill, {measured['per_s']:.0f} over all; seconds until nine tenths of that: "
        f"{recovered}.\n\n{_circumstances(part)}\n"
    )


def _circumstances(part: dict[str, Any]) -> str:
    one = part["circumstances"]
    return f"`{one['command']}`, {one['date']}, {one['machine']}, load before: {one['load_before']}, {one['versions']}."
