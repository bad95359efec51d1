"""See what is said when a kernel fails, and that nothing else is hurt by it."""

import math
import os
import threading

from offload import LaunchTimeout, OptionError, SerializationError, WorkerDied, connect, offload
from offload.core import coreid

connect("local:2")


@offload
def find_pi(darts):
    return 4 * round(darts * math.pi / 4) / darts  # there is no pi without darts


@offload
def crash():
    if coreid() == 1:
        os._exit(3)
    return "core 0 does not notice"


@offload(timeout=0.3)
def hang():
    threading.Event().wait()


def show(title, error):
    print(f"\n{title}:\n    {type(error).__name__}: {error}")


try:
    find_pi(0, target=1)
except ZeroDivisionError as error:  # the kernel's own; its cause is the traceback on the core
    show("The kernel raises an exception", error)
    print(str(error.__cause__).strip())
try:
    crash()
except WorkerDied as error:
    show("A core dies", error)
try:
    hang(target=0)
except LaunchTimeout as error:
    show("The kernel hangs", error)
try:
    find_pi(threading.Lock())
except SerializationError as error:
    show("An argument cannot travel", error)
try:
    find_pi(1000, auto=5)
except OptionError as error:
    show("There are not so many cores", error)

print("\nAfter all this, both cores are well:", find_pi(1000))
