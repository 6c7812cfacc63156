"""The reader, shared by all tests of a process: what it makes once is used by every block."""

from contextlib import nullcontext

import pytest
from support.loopback_hub import LoopbackHub

from .reader import Reader, open_writable_hub, publish_encoders


@pytest.fixture(scope="session")
def reader(tmp_path_factory):
    root = tmp_path_factory.mktemp("reader")
    with LoopbackHub() as hub, open_writable_hub() or nullcontext() as writable:
        publish_encoders(hub, root / "encoders")
        yield Reader(root, hub, writable)
