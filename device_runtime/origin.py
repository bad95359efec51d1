"""Where a class or a function comes from: what a core can import, and what must be sent to it.

Modules of three kinds: *installed* ones (standard library, site-packages, our
own) are taken to be the same on every core; *user modules*, such as those next
to the script, can be imported on a core too, since `sys.path` travels, but may
have changed since they were imported here; the rest (`__main__`, a notebook, a
module made by hand) exist in this process only.
"""

from __future__ import annotations

import copyreg
import os
import site
import sys
from functools import lru_cache
from types import (
    BuiltinFunctionType,
    ClassMethodDescriptorType,
    FunctionType,
    MethodDescriptorType,
    MethodWrapperType,
    ModuleType,
    WrapperDescriptorType,
)
from typing import Any

OUR_PACKAGES = frozenset({"offload", "scheduler", "device_runtime"})
_BUILTINS = (
    BuiltinFunctionType,
    ClassMethodDescriptorType,
    MethodDescriptorType,
    MethodWrapperType,
    WrapperDescriptorType,
)
_SITE_FOLDERS = frozenset({"site-packages", "dist-packages"})

# By name, for the module object it was found out for: a module can be replaced.
_user: dict[str, tuple[ModuleType | None, bool]] = {}
_importable: dict[str, tuple[ModuleType | None, bool]] = {}


def users_level() -> int:
    """Return the stack level, for a warning by the caller, of the first frame that is not our own."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in OUR_PACKAGES:
        frame, level = frame.f_back, level + 1
    return level


def is_user_module(name: str | None) -> bool:
    """Tell whether a module is the user's own code rather than installed."""
    if name is None or name == "__main__":
        return True
    module = sys.modules.get(name)
    known = _user.get(name)
    if known is None or known[0] is not module:
        known = _user[name] = module, name.partition(".")[0] not in OUR_PACKAGES and not _installed(module)
    return known[1]


def is_importable_module(name: str | None) -> bool:
    """Tell whether importing a module of this name on a core gives the module that is loaded here."""
    if name is None or name in ("__main__", "__mp_main__"):
        return False
    module = sys.modules.get(name)
    if module is None:
        return False
    known = _importable.get(name)
    if known is None or known[0] is not module:
        known = _importable[name] = module, _findable(name, module)
    return known[1]


def is_importable(thing: Any) -> bool:
    """Tell whether a core finds this very class or function under its module and qualified name."""
    module = getattr(thing, "__module__", None)
    name = getattr(thing, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str) or not is_importable_module(module):
        return False
    found: Any = sys.modules[module]
    for part in name.split("."):
        found = getattr(found, part, None)
    return found is thing


def travels_by_value(function: FunctionType) -> bool:
    """Tell whether a function a kernel uses is sent as it is now, not imported on the core."""
    return is_user_module(function.__module__) or not is_importable(function)


def is_reference(value: Any) -> bool:
    """Tell whether a value pickles as a name that cores can import: a class, a built-in, a ufunc."""
    if isinstance(value, type):
        return is_importable(value)
    if isinstance(value, _BUILTINS):
        owner = getattr(value, "__self__", None)
        return owner is None or isinstance(owner, (ModuleType, type))
    if not callable(value) or is_user_module(getattr(value, "__module__", None) or type(value).__module__):
        return False
    reduce = copyreg.dispatch_table.get(type(value))
    try:
        return isinstance(value.__reduce_ex__(5) if reduce is None else reduce(value), str)
    except Exception:
        return False


def _installed(module: ModuleType | None) -> bool:
    if module is None:
        return False
    spec = getattr(module, "__spec__", None)
    if spec is None:
        return False
    if spec.origin in ("built-in", "frozen"):
        return True
    places = [module.__file__] if getattr(module, "__file__", None) else list(getattr(module, "__path__", []))
    return bool(places) and all(_is_installed_path(str(place)) for place in places)


def _is_installed_path(path: str) -> bool:
    path = os.path.abspath(path)
    return not _SITE_FOLDERS.isdisjoint(path.split(os.sep)) or path.startswith(_installed_folders())


@lru_cache(maxsize=1)
def _installed_folders() -> tuple[str, ...]:
    import sysconfig

    paths = [sysconfig.get_paths()[key] for key in ("stdlib", "platstdlib", "purelib", "platlib")]
    paths += [site.getusersitepackages()] if site.ENABLE_USER_SITE else []
    return tuple(os.path.join(os.path.abspath(path), "") for path in paths)


def _findable(name: str, module: ModuleType) -> bool:
    spec = getattr(module, "__spec__", None)
    if spec is None:
        return False
    if not is_user_module(name):
        return True
    parent = name.rpartition(".")[0]
    path = getattr(sys.modules.get(parent), "__path__", None) if parent else None
    if parent and path is None:
        return False
    for finder in sys.meta_path:
        find = getattr(finder, "find_spec", None)
        try:
            found = find(name, path) if find is not None else None
        except Exception:  # a foreign finder's fault must not become ours
            continue
        if found is not None:
            return bool(found.origin == spec.origin)
    return False
