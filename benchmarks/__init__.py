"""Measure what a launch costs, beside what others cost and what the machine allows.

    python -m benchmarks                    # everything, with all peers that are installed
    python -m benchmarks noop metg --peers pool,ray --plot costs.png

A *subject* is one thing to be measured: offload, a peer, or a bare limit such
as a pipe between two processes. Each has a process of its own, its *stand*,
and takes its turn in every round while all others are blocked.
"""
