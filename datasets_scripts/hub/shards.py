"""The Parquet files of a built folder: whether each is still what the build wrote, and what to do where one is not."""

import hashlib

import pyarrow as pa
import pyarrow.parquet as pq

from modeling_aver.io.atomic import digest_of
from modeling_aver.io.media import MediaError, check_is_media

REMEDY = "Copy or fetch it again, or build the folder again: aver data build"


def sha256_of(path):
    """`str`: SHA-256 of a file, in hexadecimal digits."""
    return digest_of(path, hashlib.sha256())


def damage_of(path, name, digest=None):
    """
    What is wrong with a shard, in a sentence, or `None`.

    Args:
        path (`Path`): The file.
        name (`str`): What to call it.
        digest (`str`, *optional*): SHA-256 that it had when it was built; builds of earlier versions do not tell.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(512)
        check_is_media(head, name)
        if head.lstrip()[:1] == b"<":
            return f"{name} is a web page, not a Parquet file. {REMEDY}."
        pq.read_metadata(path)
    except MediaError as error:
        return f"{error} {REMEDY}."
    except (pa.ArrowException, OSError) as error:
        return f"{name} is no whole Parquet file ({' '.join(str(error).split())}). {REMEDY}."
    if digest is not None and sha256_of(path) != digest:
        return f"{name} has changed since it was built: its SHA-256 is another. {REMEDY}."
    return None
