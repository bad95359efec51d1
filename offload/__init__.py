"""Run ordinary Python functions on compute units: cores, boards, clusters.

    from offload import offload

    @offload
    def find_pi(darts): ...

    find_pi(100_000)        # one value per core, in core order

Importing this package starts nothing and loads next to nothing: a name is
loaded when it is first used.
"""

from __future__ import annotations

import importlib
import os
import sys

TYPE_CHECKING = False  # as type checkers know; importing `typing` would cost more than all the rest

if TYPE_CHECKING:
    from device_runtime.errors import (
        ArgsDecodeError,
        ArgsNotSerializable,
        BitstreamError,
        DependencyError,
        DeviceError,
        DeviceMemoryError,
        DeviceUnavailable,
        EmulationError,
        ForkedHandleError,
        KernelError,
        KernelNotSerializable,
        KernelTypeError,
        LaunchError,
        LaunchTimeout,
        MessageError,
        NestedDeadlockError,
        NotOnDevice,
        NoUnitsError,
        OffloadError,
        OptionError,
        PeerEnded,
        PoisonedKernel,
        QueueFull,
        RemoteTraceback,
        ResidentDataLost,
        ResidentNameError,
        ResultDecodeError,
        ResultNotSerializable,
        SerializationError,
        SessionClosed,
        UnknownDeviceError,
        VerificationError,
        WorkerDied,
    )
    from offload import core as core
    from offload import testing as testing
    from offload.arrays import DeviceArray
    from offload.decorators import offload, offload_multiple, offload_single
    from offload.directions import In, InOut, Out
    from offload.executor import Executor
    from offload.explaining import explain
    from offload.handle import Handle, SingleHandle, Timing
    from offload.hardware import HardwareKernel
    from offload.joblib_entry import register_joblib
    from offload.kernel import AsyncKernel, Kernel, SingleKernel
    from offload.manifest import Manifest
    from offload.options import Options
    from offload.resident import copy_from_device, copy_to_device, define_on_device
    from offload.scattering import broadcast, scatter
    from offload.session import Session, connect, shutdown
    from offload.timeline import plot_timeline
    from offload.verifying import Verify
    from offload.waiting import as_completed, wait_all, wait_any, waitAll

__all__ = [
    "ArgsDecodeError",
    "ArgsNotSerializable",
    "AsyncKernel",
    "BitstreamError",
    "DependencyError",
    "DeviceArray",
    "DeviceError",
    "DeviceMemoryError",
    "DeviceUnavailable",
    "EmulationError",
    "Executor",
    "ForkedHandleError",
    "Handle",
    "HardwareKernel",
    "In",
    "InOut",
    "Kernel",
    "KernelError",
    "KernelNotSerializable",
    "KernelTypeError",
    "LaunchError",
    "LaunchTimeout",
    "Manifest",
    "MessageError",
    "NestedDeadlockError",
    "NoUnitsError",
    "NotOnDevice",
    "OffloadError",
    "OptionError",
    "Options",
    "Out",
    "PeerEnded",
    "PoisonedKernel",
    "QueueFull",
    "RemoteTraceback",
    "ResidentDataLost",
    "ResidentNameError",
    "ResultDecodeError",
    "ResultNotSerializable",
    "SerializationError",
    "Session",
    "SessionClosed",
    "SingleHandle",
    "SingleKernel",
    "Timing",
    "UnknownDeviceError",
    "VerificationError",
    "Verify",
    "WorkerDied",
    "as_completed",
    "broadcast",
    "connect",
    "copy_from_device",
    "copy_to_device",
    "define_on_device",
    "explain",
    "offload",
    "offload_multiple",
    "offload_single",
    "plot_timeline",
    "register_joblib",
    "scatter",
    "shutdown",
    "waitAll",
    "wait_all",
    "wait_any",
]

# Where names come from; those that are not here are errors.
_HOMES = {
    "offload.arrays": ("DeviceArray",),
    "offload.decorators": ("offload", "offload_multiple", "offload_single"),
    "offload.directions": ("In", "InOut", "Out"),
    "offload.executor": ("Executor",),
    "offload.explaining": ("explain",),
    "offload.handle": ("Handle", "SingleHandle", "Timing"),
    "offload.hardware": ("HardwareKernel",),
    "offload.joblib_entry": ("register_joblib",),
    "offload.kernel": ("AsyncKernel", "Kernel", "SingleKernel"),
    "offload.manifest": ("Manifest",),
    "offload.options": ("Options",),
    "offload.resident": ("copy_from_device", "copy_to_device", "define_on_device"),
    "offload.scattering": ("broadcast", "scatter"),
    "offload.session": ("Session", "connect", "shutdown"),
    "offload.timeline": ("plot_timeline",),
    "offload.verifying": ("Verify",),
    "offload.waiting": ("as_completed", "waitAll", "wait_all", "wait_any"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}
_MODULES = "core", "testing"  # that users import from


def _check_floors() -> None:
    """Raise ImportError if a file of the user's own hides a package that this one stands on."""
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    for name in ("scheduler", "device_runtime"):
        found = _file_of(name)
        if found is None:
            raise ImportError(f"offload needs its own package {name!r}, which is not beside it in {here}")
        if os.path.dirname(os.path.dirname(os.path.abspath(found))) != here:
            raise ImportError(
                f"offload needs its own package {name!r}, but {found} is found under this name; "
                "rename that file or folder"
            )


def _file_of(name: str) -> str | None:
    """Return the file that an import of `name` loads, without loading it."""
    loaded = sys.modules.get(name)
    if loaded is not None:
        return getattr(loaded, "__file__", None)
    specs = (finder.find_spec(name, None) for finder in sys.meta_path)
    spec = next((spec for spec in specs if spec is not None), None)
    return None if spec is None else spec.origin


if not TYPE_CHECKING:  # type checkers would take every name for one that is there

    def __getattr__(name: str) -> object:
        if name in _MODULES:
            return importlib.import_module(f"{__name__}.{name}")  # which makes it an attribute
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(_HOME_OF.get(name, "device_runtime.errors")), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})


_check_floors()

# joblib knows backends by name only once they are registered; whoever imports it later calls this.
if hasattr(sys.modules.get("joblib"), "register_parallel_backend"):
    importlib.import_module("offload.joblib_entry").register_joblib()
