"""Start the command line: `python -m benchmarks`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; without the packages it needs, say how to get them."""
    try:
        from benchmarks.cli import app
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in {"typer", "rich"}:
            raise
        sys.exit(f"benchmarks: {missing} is missing; install it with: pip install -e '.[bench]'")
    app()


if __name__ == "__main__":
    main()
