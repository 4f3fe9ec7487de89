"""Valid times of frames: in names of files, and as text."""

import re
from datetime import datetime
from functools import lru_cache
from typing import Any

import numpy as np

Time = np.datetime64  # of seconds, UTC

# Year to minute or second in one, or with one sign between date and time of day.
_STAMP = re.compile(r"(?<!\d)((?:19|20)\d{6})[-_T]?(\d{6}|\d{4})(?!\d)")
_DIGITS = {"Y": 4, "y": 2, "m": 2, "d": 2, "H": 2, "M": 2, "S": 2, "j": 3}


def time_of_name(name: str, pattern: str | None = None) -> Time | None:
    """Read the valid time in a file's name.

    Args:
        name: without the folder, unless the pattern has folders.
        pattern: codes of `strptime` (%Y %y %m %d %j %H %M %S) in the text around them,
            in which `?` stands for any character and `*` for any number of them; it may
            leave out what comes before and after. None finds `201609281525` and the
            like: YYYYMMDDhhmm or YYYYMMDDhhmmss, with or without a `-`, `_` or `T`
            after the date.

    Returns:
        The time, None where the name has none.

    Raises:
        ValueError: the pattern has other codes, or none.

    """
    if pattern is None:
        found = _STAMP.search(name)
        if found is None:
            return None
        text = found[1] + found[2]
        form = "%Y%m%d%H%M" + ("%S" if len(found[2]) == 6 else "")
    else:
        expression, codes = _expression(pattern)
        found = expression.search(name)
        if found is None:
            return None
        text, form = "|".join(found.groups()), codes
    try:
        return np.datetime64(datetime.strptime(text, form), "s")
    except ValueError:  # such as a thirteenth month: digits that are no time
        return None


@lru_cache
def _expression(pattern: str) -> tuple[re.Pattern[str], str]:
    parts = re.split(r"%(.)", pattern)
    codes = parts[1::2]
    if not codes or not set(codes) <= set(_DIGITS):
        wanted = " ".join(f"%{code}" for code in _DIGITS)
        raise ValueError(f"--time-pattern: wanted some of {wanted}, got {pattern!r}")
    for k, part in enumerate(parts):
        if k % 2:
            parts[k] = rf"(\d{{{_DIGITS[part]}}})"
        else:
            parts[k] = re.escape(part).replace(r"\?", ".").replace(r"\*", ".*")
    return re.compile("".join(parts)), "|".join(f"%{code}" for code in codes)


def parse_time(text: str) -> Time:
    """Read a time such as 2016-09-28T14:45, UTC; a date is its first second.

    Raises:
        ValueError: the text is no such time.

    """
    return period(text)[0]


def period(text: str) -> tuple[Time, Time]:
    """Read a range of times, from the first that is in it to the first that is not.

    `2016-09` is a month, `2016-09-28` a day, `2016-09-28T14` an hour;
    `2016-09-28T14:45/2016-09-29` is from a time to the end of a day.

    Raises:
        ValueError: the text is no such range, or its end is not after its beginning.

    """
    first, _, last = text.partition("/")
    try:
        begin, end = _moment(first), _moment(last or first)
    except ValueError as error:
        raise ValueError(
            f"wanted a time such as 2016-09-28T14:45, or from/to, got {text!r}"
        ) from error
    unit: Any = np.datetime_data(end.dtype)[0]  # of its last part, as a day
    end = end + np.timedelta64(1, unit)
    if not begin < end:
        raise ValueError(f"wanted a time, and a later one after '/', got {text!r}")
    return begin.astype("datetime64[s]"), end.astype("datetime64[s]")


def _moment(text: str) -> Time:
    """A time in the unit of its last part."""
    text = text.strip().removesuffix("Z")
    if not text[:1].isdigit():
        raise ValueError(text)  # NaT, which is no time
    moment: Time = np.datetime64(text)
    return moment


def written(time: Time) -> str:
    """A time as text, to the minute where it is of one."""
    text = str(time.astype("datetime64[s]"))
    return text.removesuffix(":00") + "Z"
