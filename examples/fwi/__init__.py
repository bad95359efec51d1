"""Full waveform inversion: find what lies in the ground from the sound that comes back.

`configuration` says what is measured where, `forward` how a ground answers, and
`inversion` which ground gave the answers. `kernels` has the two products as
hardware kernels, `split` cuts a ground into parts, `pictures` shows grounds.
The numbered files are the pages of a tutorial.
"""
