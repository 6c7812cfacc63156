"""Whether one clip shows one person: scene cuts, and poses that no head can reach from one frame to the next.

OpenFace follows one face and does not say when it follows another one. Its calibration then mixes both people.
"""

import io

import numpy as np
import pandas as pd

from .upright import PictureFacts

POSE = ("pose_Tx", "pose_Ty", "pose_Tz")  # millimetres from the camera
JUMP = 150.0  # mm sideways, about the width of a head
FASTEST = 4000.0  # mm/s that a head moves
DEPTH_RATIO = 1.4  # of the distance from the camera
SOON = 0.5  # seconds within which two poses are compared
SHOWN = 3  # moments that are named


def read_poses(content: bytes) -> np.ndarray:
    """
    Head poses of a table of OpenFace that has one row per frame.

    Returns:
        `np.ndarray` of shape `(num_frames, 3)`: millimetres; NaN where the table has no poses.
    """
    table = pd.read_csv(io.BytesIO(content), skipinitialspace=True, usecols=lambda name: name.strip() in POSE)
    table.columns = [str(name).strip() for name in table.columns]
    if not set(POSE) <= set(table.columns):
        return np.full((content.count(b"\n") - 1, len(POSE)), np.nan)
    return table[list(POSE)].apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)


def find_jumps(timestamps: np.ndarray, poses: np.ndarray, success: np.ndarray) -> list[float]:
    """
    Moments at which the tracked face is somewhere else than it can have moved to.

    Args:
        timestamps (`np.ndarray` of shape `(num_frames,)`): Seconds.
        poses (`np.ndarray` of shape `(num_frames, 3)`): Millimetres.
        success (`np.ndarray` of shape `(num_frames,)`): Whether a face was found.

    Returns:
        `list[float]`: seconds.
    """
    found = np.flatnonzero(success & np.isfinite(poses).all(axis=1))
    times, poses = timestamps[found], poses[found]
    gaps = np.diff(times)
    sideways = np.linalg.norm(np.diff(poses[:, :2], axis=0), axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        depth = np.abs(np.diff(np.log(np.abs(poses[:, 2]))))
    moved = (sideways > np.maximum(JUMP, FASTEST * gaps)) | (depth > np.log(DEPTH_RATIO))
    return times[1:][moved & (gaps <= SOON)].tolist()


def scene_doubts(facts: PictureFacts, poses: np.ndarray, success: np.ndarray) -> tuple[str, ...]:
    """One sentence for each kind of moment at which the clip may go over to another person."""
    cuts = [second for second in facts.cuts if success.any()]
    jumps = find_jumps(facts.timestamps, poses, success)
    jumps = [second for second in jumps if not any(abs(second - cut) < SOON for cut in cuts)]
    advice = "If it is another person from there on, cut the clip and extract the parts."
    doubts = []
    if cuts:
        doubts.append(f"The picture has a cut at {_moments(cuts)}. {advice}")
    if jumps:
        doubts.append(f"The tracked face jumps at {_moments(jumps)}. {advice}")
    return tuple(doubts)


def _moments(seconds):
    named = ", ".join(f"{second:.2f} s" for second in seconds[:SHOWN])
    return named if len(seconds) <= SHOWN else f"{named} and {len(seconds) - SHOWN} more"
