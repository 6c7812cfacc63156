"""Sound and pictures of real files, whole and broken, on one clock."""

import http.server
import io
import os
import threading

import av
import numpy as np
import pytest
import soundfile
from support.media import cut, flip, tone, write_sound, write_video
from support.media_signals import first_sound

from datasets_scripts import SAMPLE_DIR
from modeling_aver.io import media
from modeling_aver.io.media import MediaError, MissingStreamError, read_audio, read_frames, read_sound, read_timestamps

CLIP = SAMPLE_DIR / "VideoFlash" / "1001_DFA_ANG_XX.flv"
UNEVEN = [0, 10, 50, 200, 210, 390]  # milliseconds


@pytest.mark.parametrize("suffix", ["mkv", "mov", "mp4", "avi"])
def test_timestamps_are_those_that_were_written_at_any_rate(tmp_path, suffix):
    video = write_video(tmp_path / f"clip.{suffix}", UNEVEN)
    np.testing.assert_allclose(read_timestamps(video), np.array(UNEVEN) / 1000, atol=1e-9)


def test_timestamps_of_a_real_clip_are_the_streams_own():
    with av.open(str(CLIP)) as container:
        own = [packet.pts * float(packet.time_base) for packet in container.demux(video=0) if packet.pts is not None]
    timestamps = read_timestamps(CLIP)
    np.testing.assert_allclose(timestamps, own, atol=1e-9)
    assert timestamps[0] == pytest.approx(0.027)  # this clip's picture starts after its sound
    assert np.diff(timestamps).mean() == pytest.approx(1 / 29.97, rel=1e-3)


# (first frame, first sample) as written, in seconds
@pytest.mark.parametrize("picture, sound", [(0.0, 0.3), (0.3, 0.0), (1.3, 1.1), (5.0, 5.25), (-0.2, 0.0)])
def test_sound_and_picture_keep_their_distance_wherever_the_clock_starts(tmp_path, picture, sound):
    milliseconds = [round(picture * 1000) + 40 * i for i in range(10)]
    options = {"avoid_negative_ts": "disabled"}
    video = write_video(tmp_path / "clip.mkv", milliseconds, sound=tone(), sound_start=sound, **options)
    distance = first_sound(read_audio(video)) - read_timestamps(video)[0]
    assert distance == pytest.approx(sound - picture, abs=2e-3)
    assert min(first_sound(read_audio(video)), read_timestamps(video)[0]) == pytest.approx(0, abs=2e-3)


def test_a_stream_that_starts_at_1_4_seconds_counts_from_its_first_frame(tmp_path):
    video = write_video(tmp_path / "clip.ts", range(1400, 1800, 40))
    with av.open(str(video)) as container:
        assert container.start_time > 1_000_000
    assert read_timestamps(video)[0] == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("start", [0.0, 0.3, -0.2])
def test_sound_in_pieces_is_the_sound(tmp_path, start):
    options = {"avoid_negative_ts": "disabled"}
    video = write_video(tmp_path / "clip.mkv", sound=tone(1.0, 44_100, "stereo"), sound_start=start, **options)
    for path in (video, CLIP):
        pieces = list(read_sound(path))
        assert max(map(len, pieces)) < 50_000
        np.testing.assert_array_equal(np.concatenate(pieces), read_audio(path))


def test_a_missing_stream_is_told_from_a_damaged_one(tmp_path):
    with pytest.raises(MissingStreamError, match="has no sound: it holds only video"):
        next(read_sound(write_video(tmp_path / "silent.mkv")))
    with pytest.raises(MissingStreamError, match="has no picture: it holds only audio"):
        next(read_frames(write_sound(tmp_path / "sound.wav", tone())))
    (tmp_path / "text.mkv").write_text("no video")
    for read in (read_sound, read_frames):
        with pytest.raises(MediaError) as refused:
            next(read(tmp_path / "text.mkv"))
        assert type(refused.value) is MediaError


@pytest.mark.parametrize("rate, layout", [(8_000, "mono"), (48_000, "stereo"), (44_100, "5.1")])
def test_sound_of_any_rate_and_channels_keeps_its_length_pitch_and_size(tmp_path, rate, layout):
    waveform = read_audio(write_sound(tmp_path / "clip.wav", tone(1.0, rate, layout)))
    assert waveform.dtype == np.float32 and len(waveform) == pytest.approx(16_000, abs=40)
    assert np.abs(np.fft.rfft(waveform, 16_000)).argmax() == pytest.approx(440, abs=1)
    assert np.abs(waveform[1000:-1000]).max() == pytest.approx(0.5, abs=0.01)


def test_sound_of_an_array_of_microphones_is_the_mean_of_all(tmp_path):
    """14 channels: of eight on, PyAV's planar arrays end the process."""
    seconds = np.arange(44_100) / 44_100
    channels = np.sin(2 * np.pi * 440 * seconds)[:, None] * np.linspace(0, 1, 14)
    soundfile.write(tmp_path / "array.wav", channels, 44_100)
    waveform = read_audio(tmp_path / "array.wav")
    assert len(waveform) == pytest.approx(16_000, abs=2)
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(len(waveform)) / 16_000)
    np.testing.assert_allclose(waveform[500:-500], expected[500:-500], atol=2e-3)


@pytest.mark.parametrize("kind, is_quick", [("mono", True), ("stereo", True), ("float", False), ("cut short", False)])
def test_a_whole_16_bit_wav_is_read_quickly_and_as_ffmpeg_reads_it(monkeypatch, kind, is_quick):
    file, samples = io.BytesIO(), np.random.default_rng(0).uniform(-1, 1, (1601, 1 + (kind == "stereo")))
    soundfile.write(file, samples, 16_000, format="WAV", subtype="FLOAT" if kind == "float" else "PCM_16")
    content = file.getvalue()[: 1600 if kind == "cut short" else None]
    assert (media._plain_samples(content, 16_000) is not None) is is_quick
    assert media._plain_samples(content, 44_100) is None
    quick = read_audio(content)
    monkeypatch.setattr(media, "_plain_samples", lambda content, sampling_rate: None)
    np.testing.assert_array_equal(read_audio(content), quick, strict=True)


def test_frames_are_read_one_at_a_time(tmp_path, monkeypatch):
    video = write_video(tmp_path / "long.mp4", range(0, 40 * 200, 40))
    read = []
    check = media._check_frame
    monkeypatch.setattr(media, "_check_frame", lambda *args: (read.append(1), check(*args)))
    frames = read_frames(video)
    next(frames)
    assert len(read) == 1
    frames.close()


def test_a_phones_video_is_turned_upright(tmp_path):
    video = write_video(tmp_path / "clip.mp4")
    _, upright = next(read_frames(video))
    assert upright.shape == (48, 64, 3) and upright[:8, :8].mean() > 200 > upright[:8, -8:].mean()
    content = video.read_bytes()
    start = content.index(b"tkhd") + 44  # the matrix of the track's header, 16.16 fixed point
    quarter = [0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30]  # the player turns the picture clockwise
    matrix = b"".join(number.to_bytes(4, "big", signed=True) for number in quarter)
    video.write_bytes(content[:start] + matrix + content[start + 36 :])
    _, turned = next(read_frames(video))
    assert turned.shape == (64, 48, 3)
    assert turned[:8, -8:].mean() > 200 > turned[:8, :8].mean()  # white went from upper left to upper right


@pytest.mark.parametrize("milliseconds", [[0], [0, 40, 80, 120, 160]], ids=["one frame", "0.2 s"])
def test_the_shortest_clips_are_clips(tmp_path, milliseconds):
    assert len(list(read_frames(write_video(tmp_path / "clip.mp4", milliseconds)))) == len(milliseconds)


def test_a_clip_of_one_frame_starts_at_zero(tmp_path):
    ((seconds, pixels),) = read_frames(write_video(tmp_path / "clip.mp4", [0]))
    assert seconds == 0.0 and pixels.dtype == np.uint8


def huge_header(path):
    """An AVI of plain pixels, whose size is nowhere but in its header."""
    content = write_video(path, codec="rawvideo").read_bytes()
    size = content.index(b"strf") + 12
    path.write_bytes(content[:size] + (12_000).to_bytes(4, "little") * 2 + content[size + 8 :])


BROKEN = {
    "cut.flv": (lambda path: cut(copy_of_real(path)), r"cut\.flv (ends after 1\.\d+ s of the 2\.2|is damaged)"),
    "cut.mkv": (lambda path: cut(write_video(path, range(0, 4000, 40))), "ends after .* of the 4.0. s"),
    "cut.mp4": (lambda path: cut(write_video(path)), r"cut\.mp4 .*(damaged or cut short|no picture)"),
    "flipped.mp4": (lambda path: flip(write_video(path)), r"flipped\.mp4 .*(damaged|no picture)"),
    "empty.mp4": (lambda path: path.touch(), r"empty\.mp4 is empty \(0 bytes\)"),
    "text.mp4": (lambda path: path.write_text("no video " * 100), r"text\.mp4 cannot be decoded"),
    "sound.mp4": (lambda path: write_sound(path.with_suffix(".wav"), tone()).rename(path), "holds only audio"),
    "pointer.mp4": (lambda path: path.write_bytes(media.LFS_POINTER + b"v1\noid sha256:0"), "git lfs pull"),
    "folder.mp4": (lambda path: path.mkdir(), r"folder\.mp4 is not a file"),
    "pipe.mp4": (lambda path: os.mkfifo(path), r"pipe\.mp4 is not a file"),
    "missing.mp4": (lambda path: None, r"missing\.mp4 cannot be read: No such file"),
    "loop.mp4": (lambda path: path.symlink_to(path), r"loop\.mp4 cannot be read: Too many levels"),
    "huge.avi": (huge_header, r"huge\.avi claims 12000x12000 pixels"),
}


def copy_of_real(path):
    path.write_bytes(CLIP.read_bytes())
    return path


@pytest.mark.parametrize("name", BROKEN)
def test_broken_video_is_refused_by_name_and_reason(tmp_path, name):
    make, reason = BROKEN[name]
    make(tmp_path / name)
    with pytest.raises(MediaError, match=reason):
        list(read_frames(tmp_path / name))


def test_a_wrong_suffix_does_not_matter_to_a_sound_file(tmp_path):
    video = write_video(tmp_path / "clip.mkv")
    assert len(read_timestamps(video.rename(tmp_path / "clip.mp4"))) == 10


def test_video_without_sound_says_what_it_holds(tmp_path):
    with pytest.raises(MediaError, match="clip.mp4 has no sound: it holds only video"):
        read_audio(write_video(tmp_path / "clip.mp4"))


def test_sound_years_after_the_picture_is_refused_not_filled_with_silence(tmp_path):
    video = write_video(tmp_path / "clip.mkv", sound=tone(), sound_start=1e6)
    with pytest.raises(MediaError, match="sound starts 1000000 s after"):
        read_audio(video)


def test_a_playlist_fetches_nothing(tmp_path):
    asked = []

    class Server(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

    with http.server.HTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/secret.ts"
        playlist = tmp_path / "clip.m3u8"
        playlist.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{url}\n#EXT-X-ENDLIST\n")
        for read in (read_timestamps, read_audio, lambda path: read_audio(path.read_bytes())):
            with pytest.raises(MediaError):
                read(playlist)
        server.shutdown()
    assert asked == []
