"""Frame-level features of a corpus: a folder or zip with one table a clip, all by one extractor."""

from dataclasses import replace
from pathlib import Path, PurePosixPath

from modeling_aver.features.base import check_same_features
from modeling_aver.features.openface_csv import read_openface
from modeling_aver.features.tables import FORMATS, read_features
from modeling_aver.io.media import MediaError

from ..io.archives import by_stem, find_members
from .pyfeat import is_felt, read_felt


class TrackFolder:
    """
    Tables by clip: as OpenFace writes them (`.csv`), as FELT does (see [`felt.read_felt`]), as `aver extract` does
    (`.npz`, `.parquet`), or anybody's own (see [`~modeling_aver.features.tables.read_features`]). In a zip, the first
    two.

    Args:
        path (`str` or `Path`): A folder, searched in depth, or a zip.
        name_of (`Callable[[str], str]`, *optional*):
            Clip of a table's path below the folder, without suffix. Defaults to its last part.
        version (`str`, *optional*): Of OpenFace, which its own tables do not tell.

    Raises:
        `MediaError`: if there is no table, or the first cannot be read.
    """

    def __init__(self, path, name_of=lambda name: PurePosixPath(name).name, version=None):
        self.path, self.version = Path(path), version
        tables = find_members(path, FORMATS)
        if not tables:
            raise MediaError(f"{path} holds no table of features ({', '.join(FORMATS)}).")
        self.members = by_stem(tables, lambda member: name_of(member.name_under(path)))
        first = self._first_readable()
        self.identity, self.num_features = first.identity, first.features.shape[1]

    def __contains__(self, utterance_id):
        return utterance_id in self.members

    def read(self, utterance_id):
        """
        Features of one clip.

        Returns:
            [`~modeling_aver.features.base.FaceTrack`]

        Raises:
            `MediaError`: if the table is missing or damaged, or another extractor made it than the rest.
        """
        if utterance_id not in self:
            raise MediaError(f"{utterance_id} has no table of features in {self.path.name}.")
        track = self._read(self.members[utterance_id])
        try:
            check_same_features(self.identity, track.identity)
        except ValueError as error:
            raise MediaError(f"{self.members[utterance_id].name} is not like the other tables: {error}") from error
        if track.features.shape[1] != self.num_features:
            raise MediaError(
                f"{self.members[utterance_id].name} has {track.features.shape[1]} features a frame, but the other "
                f"tables have {self.num_features}."
            )
        return track

    def _first_readable(self):
        error = None
        for utterance_id in sorted(self.members):
            try:
                return self._read(self.members[utterance_id])
            except MediaError as bad:
                error = error or bad
        raise MediaError(f"No table under {self.path} can be read; the first: {error}") from error

    def _read(self, member):
        if member.inside is None and member.suffix != ".csv":
            return read_features(member.path)
        content = member.read()
        header = content.split(b"\n", 1)[0]
        if is_felt(header):
            smoothed = {"raw": False, "smoothed": True}.get(self.path.name.split("_")[0])
            return read_felt(content, member.name, smoothed)
        if b"confidence" not in header:  # which OpenFace always writes
            if member.inside is not None:
                raise MediaError(f"{member.name} is not OpenFace's. Unpack {member.path.name} to read other tables.")
            return read_features(member.path)
        track = read_openface(content, name=member.name)
        return replace(track, identity=replace(track.identity, version=self.version))
