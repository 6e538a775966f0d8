"""Nothing that a database holds is ever run: no decoder that runs code is imported by us, or called while we serve."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import asyncio, builtins, importlib, pkgutil, sys

UNSAFE = {"pickle", "cPickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "yaml", "jsonpickle"}
real_import = builtins.__import__

def watched(name, globals=None, locals=None, fromlist=(), level=0):
    importer = (globals or {}).get("__name__", "")
    if importer.partition(".")[0] == "sessiondb" and level == 0 and name.partition(".")[0] in UNSAFE:
        raise AssertionError(f"{importer} imports {name}")
    return real_import(name, globals, locals, fromlist, level)

builtins.__import__ = watched
import sessiondb

modules = [module.name for module in pkgutil.walk_packages(sessiondb.__path__, "sessiondb.")]
for name in modules:
    if name != "sessiondb.__main__":
        importlib.import_module(name)
assert len(modules) > 100, modules

# What others may have imported must not be called on anything of ours.
import pickle

def refuse(*arguments, **more):
    raise AssertionError("something was unpickled")

pickle.loads = pickle.load = pickle.Unpickler = refuse

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import JSONResponse
from starlette.routing import Route
import httpx

async def main():
    keys = sessiondb.KeyRing(sessiondb.KeyRing.generate())
    db = sessiondb.SessionDB(f"sqlite:///{sys.argv[1]}/sessions.db", keys=keys, sweep_every=None)

    async def page(request):
        request.session["n"] = request.session.get("n", 0) + 1
        if request.session["n"] == 2:
            await request.session.login("ann")
        return JSONResponse(request.session["n"])

    middleware = [Middleware(sessiondb.SessionMiddleware, db=db, cookie=sessiondb.Cookie(secure=False))]
    app = Starlette(routes=[Route("/", page)], middleware=middleware)
    async with db, httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://shop.test") as client:
        for expected in (1, 2, 3):
            assert (await client.get("/")).json() == expected
        assert len(await db.sessions_of("ann")) == 1
        await db.sweep()
        await db.events()

asyncio.run(main())
print("done", len(modules))
"""


@pytest.mark.security("K1")
def test_no_module_of_ours_imports_a_decoder_that_runs_code(tmp_path: Path) -> None:
    """CVE-2019-17206, CVE-2021-33026, CVE-2025-24813: whoever writes to the session store must not run code here."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("done ")


@pytest.mark.security("K1")
def test_the_hook_sees_an_import() -> None:
    # A hook that sees nothing would pass for ever.
    program = PROGRAM.replace("import sessiondb\n", "exec('import pickle', {'__name__': 'sessiondb.odd'})\n", 1)
    done = subprocess.run([sys.executable, "-c", program, "."], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0 and "sessiondb.odd imports pickle" in done.stderr
