"""A timeline's files, read back: subtitles by ffmpeg, the tier file by its grammar, the picture by its size."""

import csv
import io
import json
import re

import av
import pytest

from modeling_aver.inference.timeline_formats import (
    FORMATS,
    check_formats,
    stretches,
    timeline_csv,
    timeline_textgrid,
    timeline_vtt,
    write_timeline,
)

LABELS = ["anger", "so-so & <odd>", 'he said "sad"']


def step(start, end, scores, face=1.0):
    emotions = [{"label": label, "score": score} for label, score in zip(LABELS, scores or (), strict=bool(scores))]
    emotions.sort(key=lambda emotion: -emotion["score"])
    return {"start": start, "end": end, "emotions": emotions, "face": face, "levels": [0.1, 0.5]}


@pytest.fixture
def answer():
    steps = [
        step(0.0, 0.5, (0.8, 0.1, 0.1)),
        step(0.5, 1.0, (0.6, 0.3, 0.1), face=0.2),
        step(1.0, 1.5, (0.1, 0.7, 0.2), face=0.0),
        step(1.5, 2.0, None, face=None),
        step(2.0, 3723.25, (0.0, 0.1, 0.9)),
    ]
    return {"duration": 3723.25, "timeline": steps, "emotions": [], "streams": ["audio"], "notes": [], "face": 0.5}


def test_neighbours_of_one_label_are_one_stretch_with_their_mean(answer):
    assert stretches(answer)[:2] == [(0.0, 1.0, "anger", pytest.approx(0.7)), (1.0, 1.5, "so-so & <odd>", 0.7)]
    assert [one[2] for one in stretches(answer)] == [*LABELS[:2], "", LABELS[2]]


def test_subtitles_are_read_by_ffmpeg(answer, tmp_path):
    path = tmp_path / "a.vtt"
    path.write_text(timeline_vtt(answer))
    with av.open(str(path)) as container:
        stream = container.streams.subtitles[0]
        packets = [packet for packet in container.demux(stream) if packet.size]
        found = [(float(one.pts * one.time_base), float(one.duration * one.time_base), bytes(one)) for one in packets]
    assert [(start, length) for start, length, _ in found] == [(0.0, 1.0), (1.0, 0.5), (2.0, 3721.25)]
    assert [text.decode() for _, _, text in found] == [
        "anger 70%",
        "so-so &amp; &lt;odd> 70%",
        'he said "sad" 90%',
    ]


def test_the_tier_file_has_whole_tiers_without_gaps(answer):
    text = timeline_textgrid(answer)
    assert text.startswith('File type = "ooTextFile"\nObject class = "TextGrid"\n')
    for name, labels in {
        "emotion": ["anger", "so-so & <odd>", "", 'he said ""sad""'],
        "face": ["face", "no face", "no picture", "face"],
    }.items():
        tier = text[text.index(f'name = "{name}"') :].split("item [2]")[0]
        intervals = re.findall(r'intervals \[\d+\]:\s+xmin = (\S+)\s+xmax = (\S+)\s+text = "(.*)"\n', tier)
        assert len(intervals) == int(re.search(r"intervals: size = (\d+)", tier)[1])
        assert [one[2] for one in intervals] == labels
        assert [float(one[0]) for one in intervals] == [0.0, *(float(one[1]) for one in intervals[:-1])]
        assert float(intervals[-1][1]) == 3723.25


def test_the_table_has_a_row_a_step_and_nothing_where_there_is_no_answer(answer):
    rows = list(csv.DictReader(io.StringIO(timeline_csv(answer, LABELS))))
    assert [row["label"] for row in rows] == ["anger", "anger", LABELS[1], "", LABELS[2]]
    assert float(rows[1]["p_anger"]) == pytest.approx(0.6) and rows[3]["p_anger"] == ""
    assert rows[3]["face"] == "" and float(rows[1]["face"]) == pytest.approx(0.2)


def test_all_files_are_written_whole_and_the_picture_is_one(answer, tmp_path):
    paths = write_timeline(answer, tmp_path / "deep" / "clip.v2", LABELS, title="clip")
    assert [path.name for path in paths] == [f"clip.v2.{name}" for name in FORMATS]
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == sorted(path.name for path in paths)
    assert json.loads(paths[0].read_text()) == answer
    header = paths[-1].read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n" and int.from_bytes(header[16:20], "big") == 1500


def test_a_picture_of_silence_without_face_and_answer_is_drawn(tmp_path):
    silent = {"duration": 0.0, "timeline": [{**step(0.0, 0.0, None, face=None), "levels": []}]}
    assert write_timeline(silent, tmp_path / "a", LABELS, ["png"])[0].exists()


def test_unknown_formats_and_pictures_without_matplotlib_are_refused_at_once(monkeypatch):
    with pytest.raises(ValueError, match="`formats` may hold json, csv, vtt, TextGrid, png; got srt"):
        check_formats(["json", "srt"])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'pip install "modeling-aver\[plot\]"; or --formats json,csv,vtt,TextGrid'):
        check_formats(["png"])
