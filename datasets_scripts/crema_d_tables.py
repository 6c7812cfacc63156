"""CREMA-D's own tables: who the actors are, and what the crowd perceived. Read from the user's copy, never shipped."""

import re
from pathlib import Path

import datasets
import pandas as pd

from modeling_aver.io.media import MediaError, one_line

VOTES = {"A": "anger", "D": "disgust", "F": "fear", "H": "happy", "N": "neutral", "S": "sad"}
QUERIES = {"voice": "Voice", "face": "Face", "both": "MultiModal"}
DEMOGRAPHICS = "VideoDemographics.csv"
SUMMARY = ("summaryTable.csv", "processedResults/summaryTable.csv")


def demographics_features():
    """Columns of an actor: `actor_age` (years at the recording), `actor_sex`, `actor_race`, `actor_ethnicity`."""
    return {
        "actor_age": datasets.Value("int32"),
        "actor_sex": datasets.ClassLabel(names=["female", "male"]),
        "actor_race": datasets.Value("string"),
        "actor_ethnicity": datasets.Value("string"),
    }


def perceived_features():
    """
    Columns of the crowd: `perceived_voice`, `perceived_face`, `perceived_both` hold the emotion with most votes, or
    several where votes tie; `…_level` the mean rating of each (0 to 100).
    """
    label = datasets.List(datasets.ClassLabel(names=list(VOTES.values())))
    level = datasets.List(datasets.Value("float32"))
    return {f"perceived_{q}": label for q in QUERIES} | {f"perceived_{q}_level": level for q in QUERIES}


def find_table(data_dir, *names):
    """The first of `names` under `data_dir`, or `None`."""
    return next((path for path in (Path(data_dir) / name for name in names) if path.is_file()), None)


def read_demographics(path):
    """`dict[str, dict]`: columns of [`demographics_features`] by speaker."""
    table = _read(path, ["ActorID", "Age", "Sex", "Race", "Ethnicity"])
    strange = table[~table["Age"].str.fullmatch(r"[0-9]{1,3}") | ~table["Sex"].str.lower().isin(["female", "male"])]
    if len(strange):
        row = strange.iloc[0]
        raise MediaError(f"{path.name}: actor {one_line(row.ActorID)} has no age and sex that can be read.")
    return {
        row.ActorID: {
            "actor_age": int(row.Age),
            "actor_sex": row.Sex.lower(),
            "actor_race": row.Race,
            "actor_ethnicity": row.Ethnicity,
        }
        for row in table.itertuples()
    }


def read_perceived(path):
    """`dict[str, dict]`: columns of [`perceived_features`] by utterance."""
    columns = [f"{column}{kind}" for column in QUERIES.values() for kind in ("Vote", "Level")]
    table = _read(path, ["FileName", *columns])
    again = table["FileName"][table["FileName"].duplicated()]
    if len(again):
        raise MediaError(f"{path.name} has {one_line(again.iloc[0])} more than once. Is it CREMA-D's own?")
    table = table.set_index("FileName")
    return {name: _perceived(row, path, name) for name, row in table.to_dict("index").items()}


def _perceived(row, path, name):
    found = {}
    for query, column in QUERIES.items():
        votes = row[f"{column}Vote"].split(":")
        if not set(votes) <= set(VOTES):
            given = one_line(f"{name} ({':'.join(votes)})")
            raise MediaError(f"{path.name}: {column}Vote of {given} must be of {', '.join(VOTES)}.")
        levels = row[f"{column}Level"].strip()
        if not re.fullmatch(r"\d+(\.\d+)?(:\d+(\.\d+)?)*", levels):
            raise MediaError(f"{path.name}: {column}Level of {one_line(f'{name} ({levels})')} must be numbers.")
        found[f"perceived_{query}"] = [VOTES[vote] for vote in votes]
        found[f"perceived_{query}_level"] = [float(level) for level in levels.split(":")]
    return found


def _read(path, columns):
    try:
        table = pd.read_csv(path, dtype=str, skipinitialspace=True, encoding="utf-8-sig", keep_default_na=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise MediaError(f"{path.name} is not a table of CREMA-D: {one_line(error)}") from error
    missing = [column for column in columns if column not in table]
    if missing:
        raise MediaError(f"{path.name} lacks the columns {', '.join(missing)}. Is it CREMA-D's own?")
    return table
