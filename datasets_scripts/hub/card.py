"""The dataset card of a built corpus: what the Hub reads (YAML), and what a person has to know before using it."""

import json

from ..crema_d import KNOWN_BAD_CLIPS

HEADS = {
    "crema_d": {
        "pretty_name": "CREMA-D with action units",
        "license": "odbl",
        "homepage": "https://github.com/CheyneyComputerScience/CREMA-D",
        "about": (
            "Acted emotions in speech and face: 7,442 clips of 91 actors, who say 12 sentences in six emotions. Each "
            "clip comes with its sound and with features of the face for each video frame."
        ),
        "licence": (
            "The database is under the [Open Database License 1.0](https://opendatacommons.org/licenses/odbl/1-0/) "
            "(ODbL-1.0), its contents under the [Database Contents License 1.0]"
            "(https://opendatacommons.org/licenses/dbcl/1-0/) (DbCL-1.0). A database made from this one has to be "
            "offered under the ODbL too, and has to name CREMA-D."
        ),
        "citation": """@article{cao2014crema,
  title   = {{CREMA-D}: Crowd-sourced Emotional Multimodal Actors Dataset},
  author  = {Cao, Houwei and Cooper, David G. and Keutmann, Michael K. and Gur, Ruben C. and Nenkova, Ani and
             Verma, Ragini},
  journal = {IEEE Transactions on Affective Computing},
  volume  = {5},
  number  = {4},
  pages   = {377--390},
  year    = {2014},
  doi     = {10.1109/TAFFC.2014.2336244}
}""",
    },
    "ravdess": {
        "pretty_name": "RAVDESS with action units",
        "license": "cc-by-nc-sa-4.0",
        "homepage": "https://zenodo.org/records/1188976",
        "about": (
            "Acted emotions in speech (1,440 clips, eight emotions) and song (1,012 clips, six emotions) of 24 "
            "actors, who say two sentences. Each clip comes with its sound and, where they were there to build from, "
            "with features of the face for each video frame."
        ),
        "licence": (
            "[CC BY-NC-SA 4.0](https://creativecommons.org/licenses/by-nc-sa/4.0/): no commercial use, the authors "
            "are named, and what is made from it is shared alike. The authors sell commercial licences."
        ),
        "citation": """@article{livingstone2018ravdess,
  title   = {The {Ryerson} Audio-Visual Database of Emotional Speech and Song ({RAVDESS})},
  author  = {Livingstone, Steven R. and Russo, Frank A.},
  journal = {PLOS ONE},
  volume  = {13},
  number  = {5},
  pages   = {e0196391},
  year    = {2018},
  doi     = {10.1371/journal.pone.0196391}
}""",
    },
    "clips": {
        "pretty_name": "Clips with emotions",
        "license": "other",
        "homepage": None,
        "about": "Clips with a label and a speaker each, their sound, and features of the face for each video frame.",
        "licence": "State here who may use these clips, and whether the people in them agreed.",
        "citation": None,
    },
}
COLUMNS = """| column | what | unit |
| --- | --- | --- |
| `audio` | 16 kHz mono WAV bytes and name | |
| `action_units` | a row a video frame, a column a feature; no row: no video | |
| `action_units_success` | whether a face was found in the frame | |
| `video_timestamps` | of each frame, on the clock of the sound | s |
| `video_frame_rate` | mean | Hz |
| `audio_duration`, `video_duration` | of the two streams | s |
| `label` | the acted emotion | |
| `speaker_id`, `utterance_id` | | |
| `extractor`, `extractor_version`, `extractor_settings`, `feature_names` | what made the features, and their names | |

Further columns are the corpus's own."""
LIMITS = """Emotions acted on demand, of known sentences, before a camera, are not what people feel, and a model of
them is no lie detector, no judge of applicants, pupils, patients or suspects. It must not be used to decide about
people."""


def render_card(build, splits):
    """
    README.md of a built corpus.

    Args:
        build ([`build.Build`]): What was built.
        splits (`dict[str, Split]`): The published splits of the corpus, by configuration.

    Returns:
        `str`: YAML metadata, then Markdown.
    """
    head = HEADS[build.corpus]
    parts = [
        _metadata(build, head),
        f"# {head['pretty_name']}\n\n{head['about']}",
        _source(head),
        f"## Splits\n\n{_splits(build, splits)}",
        f"## Columns\n\n{COLUMNS}",
        f"## Features of the face\n\n{_identities(build)}",
        _known_bad(build),
        _left_out(build),
        f"## Limits\n\n{LIMITS}",
        f"## Licence\n\n{head['licence']}",
        f"## Citation\n\n```bibtex\n{head['citation']}\n```" if head["citation"] else "",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _metadata(build, head):
    first = next(iter(build.counts.values()))
    clips = sum(part["clips"] for part in first.values())
    lines = [
        "---",
        f"pretty_name: {head['pretty_name']}",
        f"license: {head['license']}",
        "language:\n- en" if build.corpus != "clips" else "",
        "task_categories:\n- audio-classification\n- video-classification",
        "tags:\n- emotion-recognition\n- audio-visual\n- action-units\n- speech",
        f"size_categories:\n- {_size(clips)}",
        "configs:",
        *(_yaml_config(name, parts, default=name == next(iter(build.files))) for name, parts in build.files.items()),
        "---",
    ]
    return "\n".join(line for line in lines if line)


def _yaml_config(name, parts, default):
    lines = [f"- config_name: {name}", *(["  default: true"] if default else []), "  data_files:"]
    for part, files in parts.items():
        lines += [f"  - split: {part}", "    path:", *(f"    - {json.dumps(file)}" for file in files)]
    return "\n".join(lines)


def _size(clips):
    steps = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"))
    return next((name for limit, name in steps if clips < limit), "100K<n<1M")


def _source(head):
    if head["homepage"] is None:
        return ""
    return f"Source: {head['homepage']}. Load one split:\n\n" + (
        "```python\nfrom datasets import load_dataset\n\n"
        'dataset = load_dataset("<this repository>", "<configuration>")\n```'
    )


def _splits(build, splits):
    rows = ["| configuration | part | clips | speakers | speaker-independent | source |", "|" + " --- |" * 6]
    for name, parts in build.counts.items():
        split = splits.get(name)
        claim, source = "", "every clip"
        if split is not None:
            claim, source = ("yes, checked" if split.speaker_independent else "**no**"), split.source
        for part, counts in parts.items():
            rows.append(f"| `{name}` | {part} | {counts['clips']:,} | {counts['speakers']} | {claim} | {source} |")
    warnings = [f"**{split.warning}**" for name, split in splits.items() if name in build.counts and split.warning]
    return "\n\n".join(["\n".join(rows), *warnings, *_incomplete(build, splits)])


def _incomplete(build, splits):
    """A sentence where the corpus that was built from is not whole, so that sizes are not the published ones."""
    whole = {split.num_clips for split in splits.values()}
    found = sum(part["clips"] for part in build.counts.get("all", {}).values())
    if not whole or found in whole or "all" not in build.counts:
        return []
    return [f"Built from {found:,} of {max(whole):,} clips, so sizes differ from the published ones."]


def _identities(build):
    if not build.identities:
        return "None: these clips are sound alone."
    lines = []
    for one in build.identities:
        settings = json.dumps(one["settings"], sort_keys=True) if one["settings"] else "settings unknown"
        lines.append(
            f"- {one['name']} {one['version'] or '(version unknown)'}, {settings}; {len(one['columns'])} features: "
            f"{', '.join(one['columns'])}"
        )
    return "\n".join(lines)


def _known_bad(build):
    if build.corpus != "crema_d":
        return ""
    lines = [f"- `{name}`: {reason}" for name, reason in KNOWN_BAD_CLIPS.items()]
    return "## Known bad clips\n\nPublished splits keep some of these:\n\n" + "\n".join(lines)


def _left_out(build):
    if not build.left_out:
        return ""
    lines = [f"- `{name}`: {reason}" for name, reason in sorted(build.left_out.items())]
    return "## Left out\n\nThese could not be used:\n\n" + "\n".join(lines)
