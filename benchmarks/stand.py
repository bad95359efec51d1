"""Hold one subject ready in a process of its own, and measure a round of it for each line of input.

    python -m benchmarks.stand BENCHMARK SUBJECT QUICK DESCRIPTOR

Answers go, as JSON, to the descriptor: standard output belongs to the kernels.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from dataclasses import asdict
from typing import Any

from benchmarks.declare import Reading, Setting


def main() -> None:
    """Serve rounds until the input ends."""
    name, subject, quick, descriptor = sys.argv[1:]
    os.set_inheritable(int(descriptor), False)
    with os.fdopen(int(descriptor), "w") as answers:

        def say(**answer: Any) -> None:
            print(json.dumps(answer), file=answers, flush=True)

        try:
            found = importlib.import_module("benchmarks.catalogue").find(name).subject(subject)
            with found.open(Setting(quick == "quick")) as measure:
                say(ready=True)
                for _ in sys.stdin:
                    reading = measure()
                    say(**asdict(reading if isinstance(reading, Reading) else Reading(reading)))
        except Exception as error:
            traceback.print_exc()
            say(failed=f"{type(error).__name__}: {error}"[:300])


if __name__ == "__main__":
    main()
