"""Start the command line: `python -m offload`, or `offload` where it is installed."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; without the packages it needs, say how to get them."""
    try:
        from offload.cli import app
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in {"typer", "rich"}:
            raise
        sys.exit(f"offload: the command line needs {missing}; install it with: pip install 'offload[cli]'")
    app()


if __name__ == "__main__":
    main()
