"""Whether a name is a folder or a model of the Hub, answered before anything is loaded."""

import difflib
import functools
import glob
import queue
import socket
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from huggingface_hub import HfApi, constants, is_offline_mode, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import httpx, validate_repo_id

CONNECTION_TIMEOUT = 2.0  # seconds; huggingface_hub retries for up to a minute per file


def check_model_source(name, revision=None):
    """
    Refuses a name that is neither a folder nor a model of the Hub. A model in the Hub's cache is not asked for.

    Args:
        name (`str` or `Path`)
        revision (`str`, *optional*): Branch, tag or commit, on the Hub.

    Raises:
        `ValueError`: saying what the name cannot be, with the closest existing folder if there is one.
    """
    if Path(name).is_dir():
        return
    if reason := _why_not_on_hub(str(name), revision or constants.DEFAULT_REVISION):
        folder = closest_folder(name)
        hint = f" Did you mean {folder}?" if folder else ""
        raise ValueError(f"There is no folder {name}, and {reason}.{hint}")


def closest_folder(path):
    """
    An existing folder whose path is like `path`, part by part; for a bare name also one of that name a level deeper.

    Returns:
        `Path`, or `None` if there is none.
    """
    path = Path(path)
    parent = path.parent if path.parent.is_dir() else closest_folder(path.parent)
    if parent is None or not path.name:
        return None
    try:
        names = [child.name for child in parent.iterdir() if child.is_dir()]
    except OSError:
        return None
    if close := difflib.get_close_matches(path.name, names, n=1):
        return parent / close[0]
    deeper = sorted(child for child in parent.glob(f"*/{glob.escape(path.name)}") if child.is_dir())
    return deeper[0] if deeper else None


def _why_not_on_hub(name, revision):
    """What is wrong with a Hub id, or `None` if the model exists or the Hub has to be asked by those who load it."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return "it is not a Hub id such as org/name either"
    if isinstance(try_to_load_from_cache(name, "config.json", revision=revision), str):
        return None
    host = urlsplit(constants.ENDPOINT).netloc
    if is_offline_mode():
        return f"the cache of {host} has no model {name} (HF_HUB_OFFLINE is set)"
    try:
        _ask_hub(name, revision, constants.ENDPOINT)
    except UnreachableError as error:
        return f"whether it is a Hub id cannot be checked, because {host} cannot be reached ({error})"
    except HfHubHTTPError as error:
        return _why_refused(error, name, revision, host)
    except httpx.HTTPError as error:
        return f"whether it is a Hub id cannot be checked, because {host} does not answer ({error})"
    return None


def _why_refused(error, name, revision, host):
    if isinstance(error, RevisionNotFoundError):
        return f"the model {name} of {host} has no revision {revision}"
    if isinstance(error, RepositoryNotFoundError) and not isinstance(error, GatedRepoError):
        return f"{host} has no model {name} (if it is private, log in first: hf auth login)"
    return None  # the server is in trouble: loading asks again, with retries


class UnreachableError(Exception):
    """No connection to a server within `CONNECTION_TIMEOUT`."""


@functools.cache  # what exists once is not asked for again; an error is
def _ask_hub(name, revision, endpoint):
    _connect(endpoint)
    HfApi(endpoint).model_info(name, revision=revision, timeout=constants.HF_HUB_ETAG_TIMEOUT)


def _connect(url):
    """Opens a connection to a server, or to the proxy before it, within `CONNECTION_TIMEOUT`."""
    target, proxies = urlsplit(url), getproxies()
    proxy = proxies.get(target.scheme) or proxies.get("all")
    if proxy and not proxy_bypass(target.hostname):
        target = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    address = (target.hostname, target.port or {"https": 443}.get(target.scheme, 80))
    results = queue.SimpleQueue()

    def connect():
        try:
            socket.create_connection(address, CONNECTION_TIMEOUT).close()
            results.put(None)
        except OSError as error:
            results.put(error)

    Thread(target=connect, daemon=True).start()  # looking up a name takes no timeout
    try:
        error = results.get(timeout=CONNECTION_TIMEOUT)
    except queue.Empty:
        error = TimeoutError(f"no answer within {CONNECTION_TIMEOUT:g} s")
    if error is not None:
        raise UnreachableError(str(error)) from error
