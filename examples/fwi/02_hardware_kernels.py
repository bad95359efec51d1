# %% [markdown]
# # Full waveform inversion 2: the two products as hardware kernels
#
# `examples/fwi/kernels.py` has them as **hardware kernels**: functions with annotated arguments, which
# stand for circuits. This page runs them on the emulated FPGA, behind the real pynq: `pip install
# 'offload[alveo,examples]'` first.
#
# Run it as a notebook, or as `python -m examples.fwi.02_hardware_kernels` in the project's folder.

# %%
import tempfile
import time
from pathlib import Path

import numpy as np

import offload
from examples.fwi import configuration, forward, kernels, pictures
from examples.fwi.inversion import reconstruct
from examples.fwi.model import layered

asked = configuration.parse(
    {"ngrid": {"x": 25, "z": 10}, "Freq": {"nTotal": 15}, "nSources": 12, "nReceivers": 12}
)
truth = layered(asked)

# %% [markdown]
# ## A bitstream
#
# A real one takes hours to build. For the emulated FPGA it is written on the spot: one unit of each kernel,
# wired to two memory banks. The file is an xclbin as Vitis writes them; in the place of the circuit it has
# our functions.

# %%
folder = tempfile.TemporaryDirectory()
path = kernels.bitstream(Path(folder.name) / "fwi.xclbin", instances=1)
device = offload.connect(f"emu:{path}")
print(f"{path.name}: {path.stat().st_size:,} bytes")

# %% [markdown]
# ## One product, by a call
#
# A hardware kernel is called as the function is. K goes to the device with the call, and the pressures come
# back.

# %%
matrix = forward.matrix(asked)  # complex64, as the circuit has it
pressures = np.empty(asked.rows, np.complex64)
kernels.dotprod(matrix, truth.astype(np.float32), pressures, asked.rows, asked.cells)
print("as NumPy says it:", np.allclose(pressures, matrix @ truth.astype(np.float32), rtol=1e-4, atol=1e-6))

# %% [markdown]
# ## K stays on the device
#
# An inversion makes hundreds of products with the same K. So a *driver* kernel does all of it beside the
# device: `invert` is an ordinary kernel, launched on the FPGA. It puts K there once, in a buffer of its
# own, and its products send a vector and take one back.

# %%
found = kernels.invert.launch(asked, truth).result()
result = found.result
print(f"{len(result.residuals)} evaluations in {found.seconds:.2f} s on the emulated device")
print(
    f"{found.matrix_bytes:,} bytes of K went there, once; {found.up:,} of vectors; {found.down:,} came back"
)

# %%
begin = time.perf_counter()
plain = reconstruct(
    asked,
    pressures,
    lambda chi: matrix @ chi.astype(np.float32),
    lambda rest: np.conj(np.conj(rest.astype(np.complex64)) @ matrix),
)
print(f"plain NumPy, with numbers as wide: {time.perf_counter() - begin:.2f} s")
print("the same ground:", np.allclose(result.chi, plain.chi, atol=1e-3))

# %%
pictures.grounds(asked, {"the ground": truth, "found by the device": result.chi}, "fwi_2_ground.png")

# %% [markdown]
# The emulated device computes with NumPy as well, so it cannot be faster. What it shows is that the way
# there costs little, and that the script stays the same on a card: only the address changes, to
# `pynq:fwi.xclbin`.
#
# [Next](03_two_instances.py): two inversions at the same time.

# %%
device.shutdown()
folder.cleanup()
