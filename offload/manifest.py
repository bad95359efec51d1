"""Say which units of a bitstream work together."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from device_runtime.errors import OptionError
from device_runtime.fpga.manifest import members


class Manifest:
    """Describe the instances of a bitstream: units that work together, each group one unit to the scheduler.

        made = Manifest("fwi.xclbin", [
            {"units": ["dotprod_1", "update_1"], "banks": {"update.K": "HBM3"}, "batch": 500},
            {"units": ["dotprod_2", "update_2"], "batch": 250},
        ])
        offload.connect(f"emu:{made.write('fwi.toml')}")

    `banks` says by argument, as "update.K" for a kernel's and "update_1.K" for
    one unit's, in which of the banks that its port is wired to its arrays are.
    `batch` is the instance's share of a data set: `session.batches` has those
    of all, for `scatter`, and `instance().batch` its own. Units that no
    instance names are not used.

    Raises OptionError for what does not fit together, naming it. That the
    bitstream has such units and banks is seen when a device is opened.
    """

    def __init__(self, bitstream: str | os.PathLike[str], instances: Sequence[Mapping[str, Any]]) -> None:
        if not isinstance(bitstream, (str, os.PathLike)):
            raise OptionError(f"Manifest: bitstream={bitstream!r} must be the name of a file")
        self._bitstream = os.path.abspath(bitstream)
        self._members = members(instances, "Manifest")

    def write(self, path: str | os.PathLike[str]) -> Path:
        """Write it to a TOML file, and return the file's path; the bitstream is named as seen from there.

        Raises OptionError for a path that does not end in .toml.
        """
        file = Path(path)
        if file.suffix != ".toml":
            raise OptionError(f"Manifest.write: path={str(file)!r} must end in .toml")
        seen = os.path.relpath(os.path.realpath(self._bitstream), file.parent.resolve())
        lines = [f"bitstream = {_text(seen)}"]
        for member in self._members:
            lines += ["", "[[instances]]", f"units = [{', '.join(map(_text, member.units))}]"]
            if member.banks:
                wires = [f"{_text(argument)} = {_text(bank)}" for argument, bank in member.banks]
                lines.append(f"banks = {{ {', '.join(wires)} }}")
            if member.batch is not None:
                lines.append(f"batch = {member.batch}")
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return file


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)  # TOML's basic strings are JSON's
