"""Gates: a test that fails while kernels wait there ends as others do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from programs import Program


@pytest.mark.parametrize("step", ["come", "stay"])
def test_a_test_that_fails_lets_its_kernels_on(program: Callable[..., Program], step: str) -> None:
    text = f"""
        from gates import Gate
        from offload import offload

        def test_it(local, gate, tmp_path):
            begun = Gate.make(tmp_path / "begun")

            def kernel():
                begun.come()
                gate.{step}()

            offload(kernel, target=0).launch()
            begun.wait()
            assert False, "on purpose"
    """
    arguments = ("-m", "pytest", "-p", "conftest", "-p", "no:cacheprovider", "--basetemp=base", "test_it.py")
    ended = program(*arguments, files={"test_it.py": text}, PYTHONPATH=str(Path(__file__).parent)).end()
    assert "AssertionError: on purpose" in ended.out
    assert ended.out.splitlines()[-1].startswith("=") and " 1 failed in " in ended.out.splitlines()[-1]
