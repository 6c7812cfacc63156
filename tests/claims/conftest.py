"""The reader, shared by all tests of a process: what it makes once is used by every block."""

import pytest

from .reader import Reader, open_hub, publish_encoders


@pytest.fixture(scope="session")
def reader(tmp_path_factory):
    root = tmp_path_factory.mktemp("reader")
    hub = open_hub()
    if hub is None:
        yield Reader(root, None)
        return
    with hub:
        publish_encoders(hub, root / "encoders")
        yield Reader(root, hub)
