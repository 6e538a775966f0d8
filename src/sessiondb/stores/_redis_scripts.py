"""All scripts of the Redis and Valkey store: a server that does not know one is given them all."""

from __future__ import annotations

from sessiondb.stores import _redis_call_scripts as calls
from sessiondb.stores import _redis_change_scripts as changes
from sessiondb.stores import _redis_erasing_scripts as erasing
from sessiondb.stores import _redis_list_scripts as lists
from sessiondb.stores import _redis_trail_scripts as trail
from sessiondb.stores import _redis_watching_scripts as watching
from sessiondb.stores._redis_script import Script

ALL = {
    one.sha: one
    for module in (changes, lists, calls, trail, erasing, watching)
    for one in vars(module).values()
    if isinstance(one, Script)
}
