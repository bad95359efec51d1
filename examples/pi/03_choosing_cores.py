"""Choose the cores a kernel runs on, give each its part of the data, and stream over many elements.

    python 03_choosing_cores.py [STEPS [PICTURE.png]]
"""

import sys

import offload as of
from offload import offload, scatter
from offload.core import coreid, numcores

STEPS = int(sys.argv[1]) if len(sys.argv) > 1 else 400_000
PARTS = 24


@offload
def integrate(parts):
    """Sum the area under 4/(1 + x²) over some of the parts of [0, 1]; all of them make pi."""
    width = 1 / (PARTS * STEPS)
    starts = (part * STEPS for part in parts)
    return width * sum(4 / (1 + ((start + i + 0.5) * width) ** 2) for start in starts for i in range(STEPS))


@offload
def where(_=None):
    return coreid()


last = numcores() - 1
everything = range(PARTS)

print("all cores:     ", where())
print("the last core: ", where(target=last))
print("two, by number:", where(target=sorted({0, last})))
print("any one:       ", where(auto=1))

handles = [
    integrate.launch(scatter(everything)),  # each core its slice, as even as can be
    integrate.launch(everything[:2], target=0, async_=True) if False else integrate.options(target=0).launch([0, 1]),
]
