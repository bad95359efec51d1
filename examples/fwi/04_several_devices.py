# %% [markdown]
# # Full waveform inversion 4: several devices at once
#
# A lab has an FPGA with one large instance and another with two small ones. All three work on one ground:
# the large instance takes half of it, the small ones a quarter each. Launches say by their option `device`
# where they go.
#
# Run it as a notebook, or as `python -m examples.fwi.04_several_devices` in the project's folder; it needs
# `pip install 'offload[alveo,examples]'`.

# %%
import tempfile
import time
from pathlib import Path

import numpy as np

import offload
from examples.fwi import configuration, kernels, pictures
from examples.fwi.model import layered
from examples.fwi.split import join, split

asked = configuration.parse({"ngrid": {"x": 40, "z": 25}})
truth = layered(asked)

folder = tempfile.TemporaryDirectory()
addresses = {}
for instances in (1, 2):
    path = kernels.bitstream(Path(folder.name) / f"{instances}.xclbin", instances)
    addresses[instances] = f"emu:{path}"


def warm_up(address, instances):
    """Have every instance load what it needs."""
    little = configuration.parse({"ngrid": {"x": 3, "z": 3}, "nSources": 2, "nReceivers": 2})
    for number in range(instances):
        kernels.invert(little, layered(little), device=address, target=number)


for instances, address in addresses.items():
    warm_up(address, instances)

# %% [markdown]
# ## 500 + 250 + 250 cells

# %%
parts = split(asked, 3, shares=[2, 1, 1])
places = [addresses[1], addresses[2], addresses[2]]
begin = time.perf_counter()
handles = [
    kernels.invert.options(device=place).launch(part.asked, truth[part.cells])
    for part, place in zip(parts, places)
]
found = [handle.result() for handle in handles]
took = time.perf_counter() - begin
for part, one in zip(parts, found):
    off = np.linalg.norm(one.result.chi - truth[part.cells]) / np.linalg.norm(truth[part.cells])
    print(f"{part.asked.cells} cells: {len(one.result.residuals)} evaluations, off by {100 * off:.1f} %")
print(f"all of it took {took:.2f} s")

# %%
chi = join(parts, [one.result.chi for one in found])
pictures.grounds(asked, {"the ground": truth, "found by two devices": chi}, "fwi_4_ground.png")

# %% [markdown]
# ## Does it scale?
#
# *Strong* scaling: the same ground, on more instances. *Weak* scaling: every instance has as much to do as
# one had alone, so that twice the ground in the same time is twice as fast.


# %%
def seconds(columns, instances):
    """Return how long it takes to invert so many columns of cells, on so many instances of one device."""
    survey = {"Freq": {"nTotal": 10}, "nSources": 20, "nReceivers": 20}
    whole = configuration.parse({"ngrid": {"x": columns, "z": 10}, **survey})
    ground = layered(whole)
    invert = kernels.invert.options(device=addresses[2])
    begin = time.perf_counter()
    started = [
        invert.options(target=number).launch(part.asked, ground[part.cells])
        for number, part in enumerate(split(whole, instances))
    ]
    for handle in started:
        handle.wait()
    return time.perf_counter() - begin


one, two, twice = seconds(40, 1), seconds(40, 2), seconds(80, 2)
strong = {1: 1.0, 2: one / two}
weak = {1: 1.0, 2: 2 * one / twice}
print(f"strong scaling: {one:.2f} s on one instance, {two:.2f} s on two")
print(f"weak scaling: twice the ground on two instances in {twice:.2f} s")
pictures.scaling({"strong": strong, "weak": weak}, "fwi_4_scaling.png")

# %% [markdown]
# Half a ground is less than half the work: K has half the columns, and a smaller problem may take fewer
# steps. So strong scaling can be better than the number of instances; and two emulated instances share the
# CPUs of this machine.

# %% [markdown]
# [Next](05_watch_it.py): watch it converge.

# %%
offload.shutdown()
folder.cleanup()
