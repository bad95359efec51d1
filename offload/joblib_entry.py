"""Make joblib aware of us, without loading what a joblib backend needs before one is used."""

from __future__ import annotations

from typing import Any


def register_joblib() -> None:
    """Make `joblib.parallel_config("offload")` run on the cores of a device.

        with joblib.parallel_config("offload", n_jobs=4):
            joblib.Parallel()(joblib.delayed(f)(x) for x in data)

    Importing offload does this by itself if joblib was imported before. The
    backend takes `device=`, an address such as `local:4`.

    Raises ImportError if joblib is not installed.
    """
    try:
        import joblib
    except ImportError as error:
        raise ImportError("joblib is not installed; pip install 'offload[joblib]'") from error
    joblib.register_parallel_backend("offload", _make)


def _make(**options: Any) -> Any:
    from offload.joblib_backend import OffloadBackend

    return OffloadBackend(**options)
