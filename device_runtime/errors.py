"""The errors a user can meet, in one tree.

OffloadError
├── OptionError (ValueError)          an option, placement or address that cannot be meant
│   ├── UnknownDeviceError            no device has this address
│   └── ResidentNameError             a resident name that is not defined on the device
├── KernelTypeError (TypeError)       this object cannot be a kernel
├── SerializationError                something could not be pickled, or loaded
│   ├── KernelNotSerializable (TypeError)   the function or a value it captures
│   ├── ArgsNotSerializable (TypeError)     an argument; raised at the call
│   ├── ArgsDecodeError                     arguments did not load on the core
│   ├── ResultNotSerializable               the kernel's value
│   └── ResultDecodeError                   the value did not load on the host
├── DeviceError                       the device itself failed
│   ├── DeviceUnavailable             it cannot be opened here, and why
│   │   └── BitstreamError            its bitstream's file is damaged, or is none
│   ├── DeviceMemoryError (MemoryError)
│   ├── VerificationError             a circuit gave something else than its reference
│   ├── EmulationError                what would have gone wrong on a board without a word
│   └── NoUnitsError                  no compute unit is left to run the launch
├── LaunchError                       this launch failed, though its kernel did not raise
│   ├── WorkerDied                    the core's process ended while it ran the kernel
│   │   └── PoisonedKernel            the launch killed as many cores as it was allowed to
│   ├── LaunchTimeout                 it took longer than its option timeout=
│   ├── DependencyError               a handle among its arguments had failed
│   ├── ResidentDataLost              the core was restarted and lost its resident data
│   └── KernelError                   stands for an exception that cannot be rebuilt here
├── MessageError                      send, recv and their kin
│   ├── NotOnDevice                   called on the host
│   └── PeerEnded                     the other core will never answer
├── NestedDeadlockError               launches nested too deeply
├── QueueFull                         no room for a launch that must not wait for some
├── SessionClosed (RuntimeError)      a launch after shutdown
└── ForkedHandleError (RuntimeError)  a handle used in a forked child

A kernel's own exception is raised as it is; its cause is a RemoteTraceback.
`wait(timeout=…)` raises the built-in TimeoutError, a cancelled launch
`concurrent.futures.CancelledError`.
"""

from __future__ import annotations

import copy
from types import TracebackType
from typing import Any


class OffloadError(Exception):
    """Be the root of everything this package raises of its own accord."""


class OptionError(OffloadError, ValueError):
    """Refuse an option, a placement or an address, naming the value and the limit."""


class UnknownDeviceError(OptionError):
    """Refuse a device address that no installed device answers to."""


class ResidentNameError(OptionError):
    """Refuse a name that is not defined on the device, naming those that are, or that a kernel deleted."""


class KernelTypeError(OffloadError, TypeError):
    """Refuse an object that cannot be a kernel."""


class SerializationError(OffloadError):
    """Report something that could not travel between host and core."""


class KernelNotSerializable(SerializationError, TypeError):
    """Report a kernel, or a value it captures, that does not pickle."""


class ArgsNotSerializable(SerializationError, TypeError):
    """Report an argument that does not pickle, or that a circuit cannot hold; nothing was queued."""


class ArgsDecodeError(SerializationError):
    """Report arguments that did not load on the core."""


class ResultNotSerializable(SerializationError):
    """Report a kernel's value that does not pickle."""


class ResultDecodeError(SerializationError):
    """Report a value that did not load on the host."""


class DeviceError(OffloadError):
    """Report a fault of the device itself."""


class DeviceUnavailable(DeviceError):
    """Say why a device cannot be opened here, and what to do."""


class BitstreamError(DeviceUnavailable):
    """Say what is wrong with the file of a bitstream."""


class DeviceMemoryError(DeviceError, MemoryError):
    """Report that device memory is exhausted, naming size and limit."""


class VerificationError(DeviceError):
    """Report that a circuit gave something else than its reference, where, and by how much."""


class EmulationError(DeviceError):
    """Report what an emulated device was asked that would have gone wrong without a word on a board."""


class NoUnitsError(DeviceError):
    """Report that no compute unit is left to run a launch."""


class LaunchError(OffloadError):
    """Report a launch that failed though its kernel did not raise."""


class WorkerDied(LaunchError):
    """Report that a core's process ended before it delivered an outcome.

    `exit_code` is the code given to `os._exit`, or minus the signal's number;
    `begun` says whether the kernel had begun; `output` holds the last lines
    that the core wrote.
    """

    def __init__(
        self,
        message: str,
        exit_code: int | None = None,
        begun: bool = True,
        output: str = "",
    ) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.begun = begun
        self.output = output

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (str(self), self.exit_code, self.begun, self.output)


class PoisonedKernel(WorkerDied):
    """Report a launch whose attempts killed so many cores that it is not tried again."""


class LaunchTimeout(LaunchError):
    """Report a launch that was ended because it took longer than its option `timeout`."""


class DependencyError(LaunchError):
    """Report that a handle among the arguments failed; its error is the cause."""


class ResidentDataLost(LaunchError):
    """Report that the core was restarted since a resident name was defined on it."""


class KernelError(LaunchError):
    """Stand for a kernel's exception that could not be rebuilt on the host.

    `type_name`, `text` and `traceback` tell what is known of it.
    """

    def __init__(self, type_name: str, text: str, traceback: str = "") -> None:
        super().__init__(type_name, text, traceback)
        self.type_name = type_name
        self.text = text
        self.traceback = traceback

    def __str__(self) -> str:
        return f"{self.type_name}: {self.text}"


class MessageError(OffloadError):
    """Report a failed exchange between cores."""


class NotOnDevice(MessageError):
    """Refuse a call that has a meaning only inside a kernel."""


class PeerEnded(MessageError):
    """Report that the other core will never answer: its shard has ended, or it has none."""


class NestedDeadlockError(OffloadError):
    """Refuse launches that are nested too deeply inside kernels."""


class QueueFull(OffloadError):
    """Refuse a launch that would have to wait for room in the queue, and must not."""


class SessionClosed(OffloadError, RuntimeError):
    """Refuse a launch after the session was shut down."""


class ForkedHandleError(OffloadError, RuntimeError):
    """Refuse a handle in a process that was forked from the one that owns it."""


class RemoteTraceback(Exception):
    """Carry a traceback of another process as text; it is the cause of what is raised here."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"\n\n{self.text.rstrip()}\n"


# What follows goes past an exception's class, which may refuse attributes, or raise where there is none.


def add_note(error: BaseException, note: str) -> None:
    """Attach a note to `error`, as `BaseException.add_note` does from Python 3.11 on."""
    _attributes(error)["__notes__"] = [*notes_of(error), note]


def notes_of(error: BaseException) -> list[str]:
    """Return the notes that are attached to `error`."""
    notes = _attributes(error).get("__notes__")
    return list(notes) if isinstance(notes, (list, tuple)) else []


def set_cause(error: BaseException, cause: BaseException | None) -> None:
    """Make `cause` the cause of `error`."""
    vars(BaseException)["__cause__"].__set__(error, cause)


def again(error: BaseException) -> BaseException:
    """Return a copy of an error of ours, or of Python's, as it was before it was raised.

    One that is raised holds the frames that it passes, and these what they hold: so what is asked for more
    than once gives another one each time.
    """
    made = copy.copy(error)
    if error.__cause__ is not None:
        made.__cause__ = error.__cause__
    return made


def trace_of(error: BaseException) -> TracebackType | None:
    """Return the traceback of `error`."""
    found: TracebackType | None = vars(BaseException)["__traceback__"].__get__(error)
    return found


def context_of(error: BaseException) -> BaseException | None:
    """Return the exception in whose handling `error` was raised."""
    found: BaseException | None = vars(BaseException)["__context__"].__get__(error)
    return found


def _attributes(error: BaseException) -> dict[str, Any]:
    found: dict[str, Any] = object.__getattribute__(error, "__dict__")
    return found
