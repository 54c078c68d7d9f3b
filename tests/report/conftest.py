"""A browser for all tests of the page."""

from collections.abc import Iterator

import pytest
from chromium import FOUND, Browser, started


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if FOUND is None:
        pytest.skip("There is no Chromium.")
    with started(tmp_path_factory.mktemp("browser")) as found:
        yield found
