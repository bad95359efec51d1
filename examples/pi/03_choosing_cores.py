"""Choose the cores of a launch, give each core its part of the data, and stream over many elements.

Run it as `python 03_choosing_cores.py [STRIPS [PICTURE.png]]`; the picture shows when each launch ran on
which core (and needs matplotlib).
"""

import sys

from offload import offload, plot_timeline, scatter, wait_all
from offload.core import coreid, numcores

STRIPS = int(sys.argv[1]) if len(sys.argv) > 1 else 4_000_000


@offload
def area(strips, count):
    """Add up some of the `count` strips under 4/(1 + x²) from 0 to 1; all of them make pi."""
    width = 1 / count
    return width * sum(4 / (1 + ((strip + 0.5) * width) ** 2) for strip in strips)


@offload
def where():
    return coreid()


last = numcores() - 1
print("all cores:        ", where())
print("the last core:    ", where(target=last))
print("first and last:   ", where(target=sorted({0, last})))
print("any one:          ", where(auto=1))

parts = area(scatter(range(STRIPS)), STRIPS)  # each core its slice, as even as can be
print("pi in equal parts:", parts, "make", round(sum(parts), 9))

sizes = [STRIPS // 4 // max(last, 1)] * last  # a quarter of it for all other cores together
parts = area(scatter(range(STRIPS), [STRIPS - sum(sizes), *sizes]), STRIPS)
print("most for core 0:  ", parts, "make", round(sum(parts), 9))

counts = [10**power for power in range(1, 7)]
for count, pi in zip(counts, area.map(map(range, counts), counts)):  # one core each, in order, as they come
    print(f"pi of {count:9,} strips is {pi:.12f}")

handles = [  # what shares a core runs in this order; `auto` prefers the cores with the least to do
    area.launch(scatter(range(STRIPS)), STRIPS),
    area.options(target=0).launch(range(STRIPS // 3), STRIPS),
    area.options(auto=1).launch(range(STRIPS // 2), STRIPS),
    where.launch(),
]
wait_all(*handles)
for handle in handles:
    spans = [f"core {t.core} {t.begun:.3f}–{t.ended:.3f} s" for t in handle.timing]
    print(f"{handle!r}: {', '.join(spans)}")
if len(sys.argv) > 2:
    plot_timeline(handles).figure.savefig(sys.argv[2], dpi=100)
    print(f"the timeline is drawn in {sys.argv[2]}")
