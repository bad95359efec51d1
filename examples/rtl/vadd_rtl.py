"""Run a kernel that is written in Verilog, `vadd.v`, on the emulated FPGA: by Verilator, cycle by cycle.

It needs `pip install 'offload[alveo]'` and `apt-get install verilator make g++`.
"""

import tempfile
from pathlib import Path

import numpy as np

import offload as of
from offload import In, Out, offload
from offload.core import instance
from offload.testing import Rtl, Xclbin


@offload(kernel="vadd")
def vadd(a: In("int32"), b: In("int32"), out: Out("int32"), n: int):
    out[:n] = a[:n] + b[:n]


@offload
def counted(a, b):
    """Run the kernel as a driver does, and return how many cycles it took."""
    unit = instance().vadd
    unit(a, b, np.empty_like(a), len(a))
    return unit.cycles


if __name__ == "__main__":
    verilog = Rtl([Path(__file__).with_name("vadd.v")])
    with tempfile.TemporaryDirectory() as folder:
        path = Xclbin([vadd], units=2, models={"vadd": verilog}).write(Path(folder, "vadd.xclbin"))
        with of.connect(f"emu:{path}"):
            a, b = np.arange(10_000, dtype="int32"), np.full(10_000, 7, "int32")
            out = vadd(a, b, np.empty_like(a), len(a))[0]
            print("as NumPy says it:", np.array_equal(out, a + b))
            print("cycles:", counted(a, b, target=0)[0])
