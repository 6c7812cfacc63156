"""To the Hub with patience, but not for ever: what fails for a moment is tried again, the rest is told in one line."""

import logging
import time

from huggingface_hub import get_session
from huggingface_hub.errors import HfHubHTTPError, HTTPError  # the second: of the HTTP client that huggingface_hub has

logger = logging.getLogger(__name__)

ATTEMPTS = 3  # at one step; within one, the client tries most requests six times already
BACKOFF = 5.0  # seconds before the second attempt, doubled for the third
TIMEOUT = 120.0  # seconds in which the Hub says nothing
LONGEST_WAIT = 600.0  # seconds that a busy Hub may ask for
MOMENTARY = (408, 429, 500, 502, 503, 504)


class UploadError(OSError):
    """What the Hub did not take, with its reason and what to do."""


def with_patience(step, repo_id, command, sleep=time.sleep):
    """
    Does one step of an upload, which has to be one that may be done twice.

    Args:
        step (`Callable[[], Any]`): Such as a commit: the Hub takes it whole, or not at all.
        repo_id (`str`), command (`str`): For the message: what was pushed to, and what pushes it again.
        sleep (`Callable[[float], None]`, *optional*): Waits so many seconds.

    Returns:
        What the step does.

    Raises:
        [`UploadError`]: if the Hub refuses, cannot be reached, or fails again and again.
    """
    for attempt in range(ATTEMPTS):
        client = get_session()
        client.timeout = TIMEOUT  # by default it has none, and a Hub that falls silent would be waited for for ever
        if _refuse_long_waits not in client.event_hooks["response"]:
            client.event_hooks = {
                **client.event_hooks,
                "response": [*client.event_hooks["response"], _refuse_long_waits],
            }
        try:
            return step()
        except (HTTPError, RuntimeError) as error:
            cause = _cause(error)
            if not _is_momentary(cause) or attempt == ATTEMPTS - 1:
                raise UploadError(_told(cause, repo_id, command)) from error
            wait = BACKOFF * 2**attempt
            logger.warning("%s: %s. Trying again in %.0f s.", repo_id, _reason(cause), wait)
            sleep(wait)


def _refuse_long_waits(response):
    """The client itself would wait as long as it is told to, a day if need be."""
    wait = response.headers.get("Retry-After", "")
    if response.status_code == 429 and wait.isdigit() and int(wait) > LONGEST_WAIT:
        raise UploadError(f"The Hub is busy and asks to come back in {int(wait)} s: push again then.")


def _cause(error):
    """What the Hub or the network said; the client wraps what befalls a large file."""
    if isinstance(error, HTTPError):
        return error
    if isinstance(error.__cause__, HTTPError):
        return error.__cause__
    raise error.__cause__ if isinstance(error.__cause__, UploadError) else error


def _is_momentary(error):
    return not isinstance(error, HfHubHTTPError) or error.response.status_code in MOMENTARY


def _reason(error):
    """In one line."""
    if not isinstance(error, HfHubHTTPError):
        return f"the Hub cannot be reached ({type(error).__name__}: {error})"
    answer = error.response
    said = error.server_message or ""
    return f"the Hub answers {answer.status_code} {answer.reason_phrase}" + (
        f" ({' '.join(said.split())})" if said else ""
    )


def _told(error, repo_id, command):
    if _is_momentary(error):
        advice = f"Nothing is there by halves. Push again later, what has arrived is not sent twice: {command}"
    elif error.response.status_code in (401, 403):
        advice = "Log in with a token that may write there (hf auth login, or HF_TOKEN), or name another repository."
    else:
        advice = "Nothing was changed by this step."
    return f"{repo_id} was not pushed: {_reason(error)}. {advice}"
