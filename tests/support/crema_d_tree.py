"""CREMA-D's official folder, made of the sample clips."""

from support.corpora import tiny_openface, tiny_sound

from datasets_scripts import CremaD

# Three speakers of each part of speaker_holdout, so that every part of every configuration holds a clip.
SPEAKERS = {"1001": "train", "1037": "test", "1073": "test", "1020": "validation", "1055": "train"}


def crema_d_tree(root):
    """A little CREMA-D: five speakers, four clips each, of which EmoBox tests some."""
    tested = sorted(CremaD.SPLITS["emobox"].clips["test"])
    names = [name for speaker in SPEAKERS for name in [n for n in tested if n.startswith(speaker)][:2]]
    others = [f"{speaker}_{rest}" for speaker in SPEAKERS for rest in ("DFA_ANG_XX", "TIE_SAD_XX")]
    for name in {*names, *others}:
        for folder, suffix, content in (("AudioWAV", "wav", tiny_sound()), ("OpenFace", "csv", tiny_openface())):
            (root / folder).mkdir(parents=True, exist_ok=True)
            (root / folder / f"{name}.{suffix}").write_bytes(content)
    return root
