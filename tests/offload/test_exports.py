"""What `offload` offers, and what importing it costs."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import offload

ROOT = Path(offload.__file__).parent.parent

EXPORTED = """
    ArgsDecodeError ArgsNotSerializable AsyncKernel BitstreamError DependencyError DeviceArray DeviceError
    DeviceMemoryError DeviceUnavailable EmulationError Executor ForkedHandleError Handle HardwareKernel In
    InOut Kernel KernelError KernelNotSerializable KernelTypeError LaunchError LaunchTimeout Manifest
    MessageError
    NestedDeadlockError NoUnitsError NotOnDevice OffloadError OptionError Options Out PeerEnded
    PoisonedKernel QueueFull RemoteTraceback ResidentDataLost ResidentNameError ResultDecodeError
    ResultNotSerializable SerializationError Session SessionClosed SingleHandle SingleKernel Timing
    UnknownDeviceError VerificationError Verify WorkerDied as_completed broadcast connect
    copy_from_device copy_to_device define_on_device explain offload offload_multiple offload_single
    plot_timeline register_joblib scatter shutdown waitAll wait_all wait_any
"""


def python(code: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )


def test_public_names_are_these() -> None:
    assert sorted(offload.__all__) == sorted(EXPORTED.split())
    for name in offload.__all__:
        assert getattr(offload, name) is not None
    assert set(offload.__all__) <= set(dir(offload))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'ofload'"):
        offload.ofload  # noqa: B018


def test_the_modules_that_users_import_from_are_there_without_an_import_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(
        textwrap.dedent(
            f"""
            import sys
            sys.path.insert(0, {str(ROOT)!r})
            import offload as of

            @of.offload(auto=1)
            def number():
                return of.core.numcores()

            @of.offload(auto=1)
            def number_there():
                import offload
                return offload.core.numcores()

            if __name__ == "__main__":
                assert {{"core", "testing"}} <= set(dir(of))
                assert "offload.core" not in sys.modules
                of.connect("local:2")
                print(number(), number_there(), of.core.ishost(), of.testing.Xclbin.__name__)
            """
        )
    )
    done = python("import runpy; runpy.run_path('script.py', run_name='__main__')", tmp_path)
    assert done.stdout == "[2] [2] True Xclbin\n", done.stderr


def test_every_error_is_exported() -> None:
    from device_runtime import errors

    for name, value in vars(errors).items():
        if isinstance(value, type) and issubclass(value, BaseException):
            assert name in offload.__all__


def test_import_loads_and_starts_nothing(tmp_path: Path) -> None:
    done = python(
        f"""
        import sys
        sys.path.insert(0, {str(ROOT)!r})
        import offload
        heavy = {{"numpy", "zmq", "cloudpickle", "asyncio", "threading", "scheduler", "rich", "typer"}}
        print(sorted(heavy & set(sys.modules)))
        from offload import offload
        @offload
        def kernel(x): ...
        print(sorted({{"numpy", "zmq", "cloudpickle", "rich", "typer"}} & set(sys.modules)))
        import threading
        print(threading.active_count())
        """,
        tmp_path,
    )
    assert done.stdout.split("\n")[:3] == ["[]", "[]", "1"], done.stderr


@pytest.mark.parametrize("name", ["scheduler", "device_runtime"])
def test_a_users_module_that_hides_ours_is_named(name: str, tmp_path: Path) -> None:
    file = tmp_path / f"{name}.py"
    file.write_text("raise SystemExit('the user\\'s file was run')")
    done = python(f"import sys; sys.path.append({str(ROOT)!r}); import offload", tmp_path)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError") and str(file) in last and "rename" in last
