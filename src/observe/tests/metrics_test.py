"""Reads the sample's metrics with Prometheus' own Python parser.

metrics_test.py METRICS_SAMPLE
"""

import os
import re
import subprocess
import sys

try:
    from prometheus_client.parser import text_string_to_metric_families
except ImportError:
    print("skipped: python3-prometheus-client is not installed")
    sys.exit(77)

DOCUMENT = os.path.join(os.path.dirname(__file__), "../../../docs/operating/metrics.md")


def samples_of(families):
    return {(s.name, frozenset(s.labels.items())): s.value for f in families for s in f.samples}


def documented_names():
    with open(DOCUMENT, encoding="utf-8") as document:
        text = document.read()
    names = set(re.findall(r"\b(?:sublet_\w+|DCGM_FI_\w+)", text))
    # "`sublet_gpu_memory_bytes`, `..._memory_used_bytes`" is short for the second name.
    names |= {"sublet_gpu" + tail for tail in re.findall(r"`\.\.\.(_\w+)`", text)}
    return names


def main():
    text = subprocess.run([sys.argv[1]], check=True, capture_output=True, text=True).stdout
    families = list(text_string_to_metric_families(text))
    names = [family.name for family in families]
    assert len(names) == len(set(names)), "a family is there twice"
    series = samples_of(families)
    assert len(series) == sum(len(family.samples) for family in families), "a series is there twice"

    for family in families:
        assert family.documentation, family.name
        assert family.type in ("gauge", "counter", "summary"), family.name
        # The parser takes _total off a counter's name.
        written = family.name + ("_total" if family.type == "counter" else "")
        assert f"# TYPE {written} {family.type}\n" in text, written
        assert written in documented_names(), f"{written} is not in docs/operating/metrics.md"
        for sample in family.samples:
            if sample.name.endswith("_ratio"):
                assert 0 <= sample.value <= 1, sample

    def value(name, /, **labels):
        return series[(name, frozenset(labels.items()))]

    who = {"share": "s9", "name": 'train \x1b[31m"big" run\n', "tenant": "research"}
    assert value("sublet_share_memory_used_bytes", **who) == 41 << 30
    assert value("sublet_share_sm_used_ratio", **who) == 0.004
    assert value("sublet_refusals_total", code="infeasible") == 3
    assert value("sublet_grant_seconds_count") == 12
    dcgm = {"gpu": "0", "UUID": "GPU-0000", "device": "nvidia0", "modelName": "NVIDIA H200",
            "Hostname": "node1"}
    assert value("DCGM_FI_DEV_FB_USED", **dcgm) == 86 << 10
    assert value("DCGM_FI_DEV_GPU_UTIL", **dcgm) == 87
    print(f"{len(families)} families, {len(series)} series")


main()
