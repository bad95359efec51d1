"""What a user has set outside the script: OFFLOAD_* variables and a TOML file.

Only options that leave the meaning of a script alone can be set there: device,
timeout, retries and priority. Which cores a kernel runs on, and whether its
call waits, change what the call returns; they belong in the script.

The file may also give addresses names, which stand for them wherever an address does:

    [devices]
    board = "pynq:/opt/bits/vadd.xclbin?device=1"

The file is the one OFFLOAD_CONFIG names, else `offload/config.toml` in the
user's configuration folder ($XDG_CONFIG_HOME, ~/.config). Nothing is ever read
from the current folder: a script's meaning must not hang on where it is run.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from device_runtime import registry, toml
from device_runtime.errors import OptionError, UnknownDeviceError
from offload.options import check

_SETTABLE = ("device", "timeout", "retries", "priority")


class Settings(NamedTuple):
    """What the user has set."""

    options: dict[str, Any]  # a layer for `Options.merged`
    devices: dict[str, str]  # addresses, by name
    file: str  # where the names stand; it need not be there; "" if it could only be in the current folder

    def address(self, device: str) -> str:
        """Return the address of a device that is given by its name, or by its address.

        Raises UnknownDeviceError for what is neither.
        """
        if not self.devices or not isinstance(device, str):
            return device  # opening it will say what is wrong
        if device in self.devices:
            return self.devices[device]
        kind = device.partition(":")[0]
        if not registry.is_known(kind):
            raise UnknownDeviceError(
                f"device={device!r}: {self.file} gives no device this name (it has {_listed(self.devices)}), "
                f"and no device of kind {kind!r} is installed (there are {_listed(registry.known())})"
            )
        return device


def read(environment: Mapping[str, str] = os.environ) -> Settings:
    """Return the user's settings; a variable wins over the file.

    Raises OptionError for a value that cannot be meant, naming where it stands.
    """
    path = environment.get("OFFLOAD_CONFIG") or _user_file(environment)
    layer, devices = _from_file(path, required=bool(environment.get("OFFLOAD_CONFIG")))
    for name in _SETTABLE:
        variable = f"OFFLOAD_{name.upper()}"
        text = environment.get(variable, "").strip()
        if text:
            layer.update(check({name: text if name == "device" else _number(text)}, variable))
    return Settings(layer, devices, path)


def _number(text: str) -> Any:
    """Return the number that `text` writes, else the text, for `check` to complain of."""
    for read_as in (int, float):
        try:
            return read_as(text)
        except ValueError:
            continue
    return text


def _from_file(path: str, required: bool) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the options that a file sets, and the addresses that it names."""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except (FileNotFoundError, NotADirectoryError):
        if required:
            raise OptionError(f"OFFLOAD_CONFIG={path!r}: there is no such file") from None
        return {}, {}
    except OSError as error:
        raise OptionError(f"{path} cannot be read: {error}") from error
    given = toml.parse(text, path)
    for name in given:
        if name not in (*_SETTABLE, "devices"):
            raise OptionError(f"{path}: {name!r} cannot be set there; {', '.join(_SETTABLE)} and devices can")
    named = given.pop("devices", {})
    layer = check(given, path)
    # A path in the file must not hang on the folder that a script is run in.
    folder = os.path.dirname(os.path.abspath(path))
    if layer.get("device"):
        layer["device"] = registry.seen_from(folder, layer["device"])
    return layer, {name: registry.seen_from(folder, address) for name, address in _named(named, path)}


def _named(given: Any, path: str) -> list[tuple[str, str]]:
    """Return the names of devices in a file, each with its address, as they stand there."""
    if not isinstance(given, dict):
        raise OptionError(f"{path}: devices={given!r} must be a table of names and addresses: [devices]")
    for name, address in given.items():
        where = f"{path}: [devices] {name} = {address!r}"
        if not re.fullmatch(r"[\w.-]+", name):
            raise OptionError(f"{where}: a name has letters, digits, '_', '-' and '.', and nothing else")
        if name in registry.OURS:
            raise OptionError(f"{where}: {name!r} is a kind of device; choose another name")
        if not isinstance(address, str) or not address:
            raise OptionError(f"{where}: an address is a string such as 'local:4'")
        if address in given:
            raise OptionError(f"{where}: {address!r} is a name, too; give the address that it stands for")
    return list(given.items())


def _listed(names: Mapping[str, object]) -> str:
    return ", ".join(repr(name) for name in names)


def _user_file(environment: Mapping[str, str]) -> str:
    """Return where the user's file is to be, "" where no folder is known to be the user's."""
    # By the XDG specification a relative path is to be ignored; one from HOME is no better.
    for base in (environment.get("XDG_CONFIG_HOME", ""), os.path.join(os.path.expanduser("~"), ".config")):
        if os.path.isabs(base):
            return os.path.join(base, "offload", "config.toml")
    return ""
