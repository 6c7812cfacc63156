"""Media whose clocks are wrong: the right moments come out, or one line that says what is wrong."""

from fractions import Fraction

import av
import numpy as np
import pytest
from made_up_extractor import Brightness
from made_up_media import MILLISECOND, tone, write_video
from test_media import first_sound
from test_predict import BRIGHTNESS, saved

from modeling_aver.features import MediaError, find_clips, read_audio, read_features, read_sound, read_timestamps
from modeling_aver.inference import FacesOfExtractor, load_pipeline, predict_clips

KEPT = {"avoid_negative_ts": "disabled"}
RATE = 16_000


def mux(path, pictures=(), sounds=(), rate=25):
    """
    A file whose packets carry any timestamps, as broken cameras and cut recordings write them.

    Args:
        path (`Path`)
        pictures (iterable of `int`): Milliseconds of each frame.
        sounds (iterable of `float`): Seconds at which each tenth of a second of a tone begins.
        rate (`int`, *optional*, defaults to 25): What the header says of the picture, in Hz.
    """
    with av.open(str(path), "w") as container:
        screen = container.add_stream("mpeg4", rate=rate)
        screen.width, screen.height, screen.pix_fmt = 32, 24, "yuv420p"
        screen.codec_context.time_base = MILLISECOND
        speaker = container.add_stream("pcm_s16le", rate=RATE)
        speaker.codec_context.layout = "mono"
        container.start_encoding()
        for index, (packet, pts) in enumerate(zip(_encoded(screen, len(pictures)), pictures, strict=True)):
            packet.dts, packet.pts, packet.duration = index, pts, 40
            container.mux(packet)
        for index, start in enumerate(sounds):
            piece = tone(0.1)
            piece.pts, piece.time_base = index * 1600, Fraction(1, RATE)
            for packet in speaker.encode(piece):
                packet.dts, packet.pts = index, round(start * RATE)
                container.mux(packet)
    return path


def _encoded(stream, count):
    packets = []
    for index in range(count):
        frame = av.VideoFrame.from_ndarray(np.full((24, 32, 3), 40 + index, np.uint8), format="rgb24")
        frame.pts, frame.time_base = 40 * index, MILLISECOND
        packets.extend(stream.encode(frame))
    return packets + stream.encode(None)


EVEN = [0, 40, 80, 120, 160, 200]
TENTHS = [0.0, 0.1, 0.2, 0.3]


def test_sound_that_starts_two_seconds_after_the_picture_starts_there(tmp_path):
    video = write_video(tmp_path / "clip.mkv", sound=tone(), sound_start=2)
    assert first_sound(read_audio(video)) == pytest.approx(2, abs=2e-3) and read_timestamps(video)[0] == 0


def test_a_clock_that_starts_before_zero_keeps_the_streams_together(tmp_path):
    video = write_video(tmp_path / "clip.mkv", range(-2000, 400, 40), sound=tone(), sound_start=0.5, **KEPT)
    assert read_timestamps(video)[0] == pytest.approx(0, abs=1e-3)
    assert first_sound(read_audio(video)) == pytest.approx(2.5, abs=2e-3)


@pytest.mark.parametrize("suffix", ["mkv", "mp4", "nut"])
@pytest.mark.parametrize(
    "pictures, reason",
    [
        ([5, 40, 80, 60, 100, 140], r"runs backwards in time: frame 3 is at 0\.055 s, after 0\.075 s"),
        ([5, 40, 80, 5_000, 120, 160], r"runs backwards in time: frame 4"),
        ([5, 40, 80, 36_000_000, 36_000_040], r"leaps to 36000 s at frame 3"),
    ],
    ids=["steps back", "leaps and comes back", "10 h"],
)
def test_pictures_whose_clock_steps_back_or_leaps_are_refused_with_frame_and_moment(
    tmp_path, suffix, pictures, reason
):
    with pytest.raises(MediaError, match=rf"clip\.{suffix} {reason}"):
        read_timestamps(mux(tmp_path / f"clip.{suffix}", pictures))


def test_two_pictures_at_one_moment_are_kept(tmp_path):
    timestamps = read_timestamps(mux(tmp_path / "clip.mkv", [0, 40, 40, 40, 80]))
    np.testing.assert_allclose(timestamps, [0, 0.04, 0.04, 0.04, 0.08], atol=1e-6)


@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
def test_a_header_that_claims_a_thousand_pictures_a_second_moves_none(tmp_path, suffix):
    timestamps = read_timestamps(mux(tmp_path / f"clip.{suffix}", [1, *EVEN[1:]], rate=1000))
    np.testing.assert_allclose(timestamps, np.array([0, 39, 79, 119, 159, 199]) / 1000, atol=1e-6)


def test_pictures_without_any_timestamps_go_by_the_frame_rate(tmp_path):
    path = tmp_path / "clip.h264"
    with av.open(str(path), "w", format="h264") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 24, "yuv420p"
        for packet in _encoded(stream, 5):
            container.mux(packet)
    np.testing.assert_allclose(read_timestamps(path), np.arange(5) / 25, atol=1e-6)


# A tenth of a second at each of these; where the sound is afterwards, to a tenth.
@pytest.mark.parametrize(
    "sounds, heard",
    [
        ([0.0, 0.1, 2.1, 2.2], [0, 1, 21, 22]),
        ([0.0, 0.13, 0.17, 0.3], [0, 1, 2, 3]),
        ([0.0, 1.0, 1.1, 3.0], [0, 10, 11, 30]),
        ([0.0, *(0.01 * number for number in range(1, 10))], list(range(10))),
    ],
    ids=["lost in the middle", "jitter", "lost twice", "a clock that is too slow"],
)
def test_sound_that_was_lost_leaves_silence_so_that_the_rest_stays_with_the_picture(tmp_path, sounds, heard):
    video = mux(tmp_path / "clip.nut", EVEN, sounds)
    waveform = read_audio(video)
    assert len(waveform) == pytest.approx((heard[-1] + 1) * RATE / 10, abs=2)
    loud = [
        number for number, tenth in enumerate(np.split(waveform, len(heard) and heard[-1] + 1)) if tenth.std() > 0.1
    ]
    assert loud == heard
    np.testing.assert_array_equal(np.concatenate(list(read_sound(video))), waveform)
    assert max(map(len, read_sound(video))) <= RATE


@pytest.mark.parametrize(
    "sounds, reason",
    [
        ([0.0, 36_000.0], "sound leaps from 0 to 36000 s. Its timestamps are damaged"),
        ([2.0, 2.1, 0.5, 0.6], r"runs backwards in time: sound of 0\.50 s comes after that of 2\.10 s"),
    ],
    ids=["10 h", "steps back"],
)
def test_sound_whose_clock_leaps_or_steps_back_is_refused(tmp_path, sounds, reason):
    with pytest.raises(MediaError, match=rf"clip\.nut:? {reason}"):
        read_audio(mux(tmp_path / "clip.nut", EVEN, sounds))


@pytest.fixture(scope="module")
def recognize(tmp_path_factory):
    folder = tmp_path_factory.mktemp("brightness")
    return load_pipeline(saved(folder, num_action_units=2, feature_identity=BRIGHTNESS))


def test_every_such_clip_has_an_answer_or_a_reason_and_none_stops_the_others(recognize, tmp_path):
    """A stream without a frame is as none; sound of ten times the picture's length answers."""
    videos = tmp_path / "videos"
    videos.mkdir()
    mux(videos / "no_sound.mkv", EVEN)
    mux(videos / "no_picture.mkv", (), TENTHS)
    mux(videos / "nothing.mkv")
    mux(videos / "thousand.mkv", [1, *EVEN[1:]], TENTHS, rate=1000)
    mux(videos / "backwards.nut", [5, 40, 80, 60], TENTHS)
    write_video(videos / "long_sound.mkv", sound=tone(4.0))
    write_video(videos / "late_sound.mkv", sound=tone(), sound_start=2)
    faces = FacesOfExtractor(Brightness(tmp_path / "log.txt"))
    (videos / "backwards.nut").rename(videos / "backwards.mkv")
    for timing in (None, {"window": 1.0, "hop": 0.5}):
        predictions = predict_clips(recognize, find_clips([videos]), faces, timing=timing)
        streams = {name: one["streams"] for name, one in predictions.done.items()}
        both = ["audio", "video"]
        assert streams.pop("no_sound") == ["video"] and streams.pop("no_picture") == ["audio"]
        assert all(streams[name] == both for name in ("thousand", "long_sound", "late_sound"))
        assert predictions.done["long_sound"]["duration"] == pytest.approx(4.0, abs=0.05)
        assert predictions.done["late_sound"]["duration"] == pytest.approx(2.4, abs=0.05)
        assert "nothing" not in predictions.done
        assert all("\n" not in reason for reason in predictions.failed.values())
    reasons = {path.rpartition("/")[2]: reason for path, reason in predictions.failed.items()}
    assert set(reasons) <= {"nothing.mkv", "backwards.mkv"} and reasons["nothing.mkv"]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("suffix", ["npz", "csv", "parquet"])
def test_a_table_with_a_moment_that_is_none_names_the_row(tmp_path, suffix, value):
    import pandas as pd

    path, times = tmp_path / f"clip.{suffix}", np.array([0.0, value, 2.0])
    if suffix == "npz":
        np.savez(path, timestamps=times, features=np.ones((3, 2)))
    else:
        table = pd.DataFrame({"timestamp": times, "a": 1.0})
        table.to_csv(path, index=False) if suffix == "csv" else table.to_parquet(path)
    with pytest.raises(
        MediaError, match=rf"clip.{suffix} holds values that are not finite numbers: timestamp of fr.* 1"
    ):
        read_features(path)
