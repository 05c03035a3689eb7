"""Schedules as instruction streams. Pure Python: no torch.

One is its file in this folder, and its line in `SCHEDULES`; docs/extending.md adds one.
"""

from ds_bert.schedules.schedule import Schedule, gpipe, one_f_one_b
from ds_bert.schedules.two_bw import TwoBW

SCHEDULES: dict[str, Schedule] = {
    "1f1b": Schedule(one_f_one_b),
    "gpipe": Schedule(gpipe),
    "2bw": TwoBW(),
}
"""By the name that `--schedule` knows them by."""
