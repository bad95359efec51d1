# %% [markdown]
# # Full waveform inversion 3: two instances, and a ground that is split over them
#
# One unit of `dotprod` and one of `update` belong together: they are an *instance*, and work on the same
# memory banks. A bitstream may have several. Each is one compute unit to offload, so two inversions run at
# the same time.
#
# Run it as a notebook, or as `python -m examples.fwi.03_two_instances` in the project's folder; it needs
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

asked = configuration.parse(
    {"ngrid": {"x": 30, "z": 10}, "Freq": {"nTotal": 15}, "nSources": 12, "nReceivers": 12}
)
truth = layered(asked)

# %% [markdown]
# ## Two instances, four banks
#
# The first instance has K in HBM0 and its vectors in HBM1, the second has them in HBM2 and HBM3. Which bank
# an argument goes to is wired in the bitstream; nobody has to say it again.

# %%
folder = tempfile.TemporaryDirectory()
path = kernels.bitstream(Path(folder.name) / "fwi.xclbin", instances=2)
device = offload.connect(f"emu:{path}")

# %% [markdown]
# ## Two parts
#
# The ground is cut into two, and each part is found as if the other were not there. Mind that this is
# another problem than the whole ground: each part is judged by its own truth.

# %%
parts = split(asked, 2)
little = configuration.parse({"ngrid": {"x": 3, "z": 3}, "nSources": 2, "nReceivers": 2})
for number in range(2):  # the first run loads what it needs
    kernels.invert(little, layered(little), target=number)

begin = time.perf_counter()
handles = [kernels.invert.launch(part.asked, truth[part.cells]) for part in parts]
found = [handle.result() for handle in handles]
together = time.perf_counter() - begin
for handle, part, one in zip(handles, parts, found):
    off = np.linalg.norm(one.result.chi - truth[part.cells]) / np.linalg.norm(truth[part.cells])
    print(
        f"instance {handle.timing[0].core}: {part.asked.cells} cells, "
        f"{len(one.result.residuals)} evaluations, off by {100 * off:.2f} %"
    )

# %% [markdown]
# ## Side by side, and one after the other

# %%
begin = time.perf_counter()
for part in parts:
    kernels.invert(part.asked, truth[part.cells], target=0)
alone = time.perf_counter() - begin
print(
    f"two instances {together:.2f} s, one after the other {alone:.2f} s: {alone / together:.1f} times faster"
)

# %%
chi = join(parts, [one.result.chi for one in found])
pictures.grounds(asked, {"the ground": truth, "found in two parts": chi}, "fwi_3_ground.png")
pictures.misfits({f"part {n}": one.result.residuals for n, one in enumerate(found)}, "fwi_3_misfit.png")

# %% [markdown]
# [Next](04_several_devices.py): several devices at once.

# %%
device.shutdown()
folder.cleanup()
