"""A browser for all tests of the page."""

from collections.abc import Iterator

import pytest
from chromium import FOUND, Browser, NotStartedError, started


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if FOUND is None:
        pytest.skip("There is no Chromium.")
    try:
        with started(tmp_path_factory.mktemp("browser")) as found:
            yield found
    except NotStartedError:
        pytest.skip("The Chromium that was found does not start.")
