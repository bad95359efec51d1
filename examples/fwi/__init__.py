"""Full waveform inversion: find what lies in the ground from the sound that comes back.

`configuration` says what is measured where, `forward` how a ground answers, and
`inversion` which ground gave the answers.
"""
