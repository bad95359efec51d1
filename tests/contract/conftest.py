"""Open the device that a class of tests is about, once for the class."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from bitstreams import address

import offload

pytest.register_assert_rewrite("device_contract", "launch_contract")

from device_contract import Driver  # noqa: E402


@pytest.fixture(scope="class")
def driver(request: pytest.FixtureRequest) -> Iterator[Driver]:
    driver = Driver(request.cls().make())
    yield driver
    driver.device.close()


@pytest.fixture(scope="class")
def connected(request: pytest.FixtureRequest) -> Iterator[None]:
    with offload.connect(address(request.cls.address)):
        yield
