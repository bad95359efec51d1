# %% [markdown]
# # Full waveform inversion 1: the problem, and its solution in NumPy
#
# Sound is sent into the ground from the surface, and receivers listen to what comes back. Which ground gave
# these echoes? That is the question of full waveform inversion.
#
# The ground is a grid of cells. Each has a *contrast*, χ = 1 − (c₀/c)², which says how far the speed of
# sound in it, c, is from that around it, c₀. To first order, the pressure at a receiver is the sum of what
# each cell echoes by itself: a matrix **K** times the contrasts. It has a row for every frequency, receiver
# and source.
#
# Run it as a notebook, or as `python -m examples.fwi.01_the_problem` in the project's folder; it needs
# `pip install 'offload[examples]'`.

# %%
import time

import numpy as np

from examples.fwi import configuration, forward, pictures
from examples.fwi.inversion import reconstruct
from examples.fwi.model import layered

asked = configuration.parse(
    {"ngrid": {"x": 25, "z": 10}, "Freq": {"nTotal": 15}, "nSources": 12, "nReceivers": 12}
)
print(f"{asked.cells} cells, {asked.rows} pressures")

# %% [markdown]
# ## A ground to find
#
# Layers of rock, made up for this page. K is 2,160 × 250 complex numbers; the *data* are what a survey of
# this ground would measure.

# %%
truth = layered(asked)
matrix = forward.matrix(asked, np.complex128)
data = matrix @ truth
print(f"K takes {matrix.nbytes / 1e6:.1f} MB")

# %% [markdown]
# ## Back from the data to the ground
#
# There are more unknown things than the data tell: many grounds would sound nearly alike. So a smooth one
# is looked for, step by step, by conjugate gradients. Each step takes two products with K, `dotprod` and
# `update`; all the rest is little work. They are given to `reconstruct` as functions, so that they may run
# anywhere: here, in NumPy.


# %%
def dotprod(chi):
    return matrix @ chi


def update(rest):
    return np.conj(np.conj(rest) @ matrix)


begin = time.perf_counter()
found = reconstruct(asked, data, dotprod, update)
took = time.perf_counter() - begin
off = np.linalg.norm(found.chi - truth) / np.linalg.norm(truth)
said = "converged" if found.converged else "not converged"
print(f"{len(found.residuals)} evaluations in {took:.2f} s: {said}")
print(f"the ground that was found is off by {100 * off:.2f} %")

# %%
pictures.grounds(asked, {"the ground": truth, "what was found": found.chi}, "fwi_1_ground.png")
pictures.misfits({"NumPy": found.residuals}, "fwi_1_misfit.png")

# %% [markdown]
# Most of the time goes into the two products. The [next page](02_hardware_kernels.py) gives them to an
# FPGA.
