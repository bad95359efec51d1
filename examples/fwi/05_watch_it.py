# %% [markdown]
# # Full waveform inversion 5: watch it converge, and see where the time goes
#
# The inversion of the other pages runs to its end beside the device. Here it stays there half done, and
# goes on for a few evaluations with each launch. While it does, the host draws what the launch before has
# given: launches need not be waited for.
#
# Run it as a notebook, or as `python -m examples.fwi.05_watch_it` in the project's folder; it needs `pip
# install 'offload[alveo,examples]'`.

# %%
import tempfile
import time
from pathlib import Path

import numpy as np

import offload
from examples.fwi import configuration, forward, kernels, pictures
from examples.fwi.inversion import Inversion
from examples.fwi.model import layered
from offload import define_on_device
from offload import offload as kernel
from offload.core import instance

survey = {"ngrid": {"x": 25, "z": 10}, "Freq": {"nTotal": 15}, "nSources": 12, "nReceivers": 12}
asked = configuration.parse(survey)
truth = layered(asked)
folder = tempfile.TemporaryDirectory()
path = kernels.bitstream(Path(folder.name) / "fwi.xclbin", instances=1)
device = offload.connect(f"emu:{path}")

# %% [markdown]
# ## An inversion that stays on the device
#
# `running` is *resident*: a variable that the instance keeps from launch to launch, and which kernels read
# and assign as a global.

# %%
define_on_device(running=None)


@kernel(auto=1)
def begin_inversion(asked, model):
    global running
    held = kernels.Resident(instance(), asked)
    running = Inversion(asked, held.dotprod(model), held.dotprod, held.update)


@kernel(auto=1)
def go_on(evaluations):
    for _ in range(evaluations):
        if not running.step():
            break
    return running.result, running.ended


begin_inversion(asked, truth)

# %% [markdown]
# ## Watch it
#
# The next launch is under way before the values of the last are drawn.

# %%
handles = [go_on.launch(4)]
ended = False
while not ended:
    handles.append(go_on.launch(4))
    result, ended = handles[-2].result()
    pictures.progress(asked, result.chi, result.residuals)

off = np.linalg.norm(result.chi - truth) / np.linalg.norm(truth)
print(f"{len(result.residuals)} evaluations, the ground is off by {100 * off:.2f} %")

# %% [markdown]
# ## When what ran
#
# A launch stands in the queue (light) until the one before it has ended, and then runs at once: the device
# never waits for the drawing.

# %%
for number, handle in enumerate(handles[:-1]):
    (timing,) = handle.timing
    print(
        f"launch {number}: {1000 * (timing.begun - timing.queued):6.1f} ms in the queue, "
        f"{1000 * (timing.ended - timing.begun):6.1f} ms on the device"
    )
pictures.timeline(handles[:-1], "fwi_5_timeline.png")

# %% [markdown]
# ## Is it worth it?
#
# What does a product cost here and there, and what of it is the way? With K resident, a product sends a
# vector and takes one back. Without, K goes along each time.

# %%
matrix = forward.matrix(asked)
chi, pressures = truth.astype(np.float32), np.empty(asked.rows, np.complex64)


@kernel(auto=1)
def products(asked, count):
    held, chi = kernels.Resident(instance(), asked), np.zeros(asked.cells, np.float32)
    held.dotprod(chi)
    begin = time.perf_counter()
    for _ in range(count):
        held.dotprod(chi)
    return (time.perf_counter() - begin) / count


def seconds(call, count):
    call()
    begin = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - begin) / count


resident = products.launch(asked, 50).result()
sent = seconds(lambda: kernels.dotprod(matrix, chi, pressures, asked.rows, asked.cells), 10)
here = seconds(lambda: matrix @ chi, 50)
print(f"K resident: {1000 * resident:.2f} ms; K sent each time: {1000 * sent:.2f} ms")
print(f"NumPy, here: {1000 * here:.2f} ms")

# %% [markdown]
# On the emulated device a product *is* NumPy's, so it can only be as fast, and the rest is what the way
# costs. On a card the product is the circuit's. It pays where that is faster than NumPy by more than the
# way takes: compare the figures above with those of your card.

# %%
device.shutdown()
folder.cleanup()
