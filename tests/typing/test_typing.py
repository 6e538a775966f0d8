"""User code is clean under strict type checking, and wrong code is not."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
Place = tuple[str, int]


def errors_of_mypy(cache: Path) -> dict[Place, str]:
    """What mypy --strict says of the files here."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--strict", "--python-version", "3.11", "--config-file", "", "--no-pretty"),
            *("--no-error-summary", "--hide-error-context", "--no-color-output", "--cache-dir", str(cache)),
            *("user_code.py", "wrong_code.py"),
        ],
        cwd=HERE,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    found: dict[Place, str] = {}
    for line in done.stdout.splitlines():
        match = re.fullmatch(r"(?:.*[/\\])?(\w+\.py):(\d+): error: (.*)", line)
        if match:
            found.setdefault((match[1], int(match[2])), match[3])
    assert done.returncode in (0, 1), done.stdout + done.stderr
    assert found, done.stdout + done.stderr
    return found


def errors_of_pyright(project: Path) -> dict[Place, str]:
    """What pyright in strict mode says of the files here. Skips where pyright cannot run."""
    if shutil.which("node") is None:
        pytest.skip(
            "pyright needs Node.js, which is not on the PATH: install it (nodejs.org, or apt-get install nodejs)"
        )
    for name in ("user_code.py", "wrong_code.py"):
        shutil.copy(HERE / name, project)
    settings = {"typeCheckingMode": "strict", "pythonVersion": "3.11", "include": ["."]}
    (project / "pyrightconfig.json").write_text(json.dumps(settings))
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, "-p", str(project)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        report = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        pytest.skip(
            "pyright cannot run here: pip install pyright, and let it fetch its language server once while the "
            f"network is there (python -m pyright --version). It said: {error!r:.300}"
        )
    assert report["summary"]["filesAnalyzed"] == 2, done.stdout[:2000]
    return {
        (Path(one["file"]).name, one["range"]["start"]["line"] + 1): one["message"]
        for one in report["generalDiagnostics"]
        if one["severity"] == "error"
    }


@pytest.fixture(scope="module", params=["mypy", "pyright"])
def errors(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[Place, str]:
    folder = tmp_path_factory.mktemp("typing")
    return errors_of_mypy(folder) if request.param == "mypy" else errors_of_pyright(folder)


def test_what_users_write_is_clean(errors: dict[Place, str]) -> None:
    assert {place: text for place, text in errors.items() if place[0] == "user_code.py"} == {}


def test_every_mistake_is_found(errors: dict[Place, str]) -> None:
    lines = (HERE / "wrong_code.py").read_text(encoding="utf-8").splitlines()
    marked = {number for number, line in enumerate(lines, 1) if "# error" in line}
    found = {line: text for (file, line), text in errors.items() if file == "wrong_code.py"}
    assert len(marked) > 50
    assert [lines[number - 1] for number in sorted(marked - found.keys())] == [], "not noticed"
    assert {lines[number - 1]: found[number] for number in sorted(found.keys() - marked)} == {}, "not a mistake"


def test_the_package_says_that_it_is_typed() -> None:
    import sessiondb

    assert (Path(sessiondb.__file__).parent / "py.typed").is_file()
