"""Damage to real files, as hypothesis draws it: what editors, disks and enemies do to bytes, tables and JSON."""

import json

from hypothesis import strategies as st

ODD_CELLS = (
    *("nan", "inf", "-inf", "1e308", "1e999", "-1", "", '"', "'", "9" * 400, "0x10", "True", "1_000", "\x00", "a,b"),
    *('"a', "None", "1+2j", "2020-01-01", "-0.0", "1e-400", "\u2028", "1,5", "1e39", "\N{PILE OF POO}", "\x1b[31m"),
)
ODD_VALUES = (
    *(None, True, False, 0, 1, -1, 2, 3, 1e-5, 0.5, -0.5, float("nan"), float("inf"), 10**30, 1e300),
    *("", "0", "os.system", "float32", "x" * 50, [], [0], [1], [-1], [None], ["x"], [[1]], [0, 0], [0.0] * 7),
    *({}, {"a": 1}, {"0": "x"}, {"name": 3}, {"name": "x"}, {"x": {"y": []}}),
)


def _drop_line(random, lines):
    lines.pop(random.randrange(len(lines)))


def _repeat_line(random, lines):
    lines.insert(random.randrange(len(lines)), random.choice(lines))


def _swap_lines(random, lines):
    one, other = random.randrange(len(lines)), random.randrange(len(lines))
    lines[one], lines[other] = lines[other], lines[one]


def _change_cell(random, lines):
    index = random.randrange(len(lines))
    cells = lines[index].split(b",")
    cells[random.randrange(len(cells))] = random.choice(ODD_CELLS).encode()
    lines[index] = b",".join(cells)


def _change_columns(random, lines):
    """One column is dropped, doubled, or put where another was."""
    width = lines[0].count(b",") + 1
    one, other, way = random.randrange(width), random.randrange(width), random.randrange(3)
    for index, line in enumerate(lines):
        cells = line.split(b",")
        if max(one, other) < len(cells):
            cell = cells.pop(one)
            cells[other:other] = [[], [cell, cell], [cell]][way]
        lines[index] = b",".join(cells)


def _change_letters(random, lines):
    old, new = random.choice((b"0", b"1", b".", b"-", b" ", b"_")), random.choice(ODD_CELLS).encode()
    lines[:] = [line.replace(old, new) for line in lines]


_OF_LINES = (_drop_line, _repeat_line, _swap_lines, _change_cell, _change_columns, _change_letters)
_OF_FILES = (
    lambda content: b"\xef\xbb\xbf" + content,
    lambda content: content.replace(b"\n", b"\r\n"),
    lambda content: content.replace(b"\n", b"\r"),
    lambda content: content.replace(b", ", b","),
    lambda content: content.replace(b",", b";"),
    lambda content: content.decode("latin-1").encode("utf-16"),
    lambda content: content + b"\n\n\n",
)


@st.composite
def damaged_bytes(draw, content, tail=0):
    """`content` with some bytes changed, added, lost, or cut off; the last `tail` ones more often than others."""
    random, content = draw(st.randoms(use_true_random=False)), bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        first = max(0, len(content) - tail) if tail and random.random() < 0.4 else 0
        start, way = random.randrange(first, len(content) + 1), random.randrange(8)
        if way == 0:
            del content[start:]
        else:
            count = random.randrange(1, 6)
            length = count if way < 5 else random.randrange(6)  # mostly changed in place
            content[start : start + count] = bytes(random.randrange(256) for _ in range(length))
    return bytes(content)


@st.composite
def damaged_table(draw, content):
    """A CSV after some of what happens to tables; now and then with damaged bytes too."""
    random = draw(st.randoms(use_true_random=False))
    for _ in range(draw(st.integers(1, 3))):
        lines = content.split(b"\n")
        random.choice(_OF_LINES)(random, lines)
        content = b"\n".join(lines)
    if draw(st.booleans()):
        content = random.choice(_OF_FILES)(content)
    return draw(damaged_bytes(content)) if draw(st.integers(0, 3)) == 0 else content


@st.composite
def changed_json(draw, values, keys=None):
    """
    (path, `values` with another value at that path), a path being names and numbers from the outside in.

    Args:
        values (`dict`): As JSON holds it; is not changed.
        keys (iterable of `str`, *optional*): Keys to begin with. Defaults to all.
    """
    values = json.loads(json.dumps(values))
    path = [draw(st.sampled_from(sorted(keys or values)))]
    part = values
    while isinstance(part.get(path[-1]), dict) and part[path[-1]] and draw(st.booleans()):
        part = part[path[-1]]
        path.append(draw(st.sampled_from(sorted(part))))
    part[path[-1]] = draw(st.sampled_from(ODD_VALUES))
    return tuple(path), values
