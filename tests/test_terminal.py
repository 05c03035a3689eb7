"""What is printed: it never ends a program, has colours on terminals only, and is whole lines in a pipe."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ds_bert import terminal
from ds_bert.commands import COMMANDS
from tests.support.terminal import BOLD, RED, YELLOW, on_terminal, plain_environment

REPOSITORY = Path(__file__).resolve().parent.parent
SIGNS = "chart ●┤└─ 1–2 − 3 × 4 ± … → “é” 漢字 \udcff 😀"
PLAIN = r'chart *|+- 1-2 - 3 x 4 +/- ... -> "\xe9" \u6f22\u5b57 \udcff \U0001f600'
PROGRAM = f"""
import sys
from ds_bert.errors import exit_on_user_error
def job():
    for _ in range(2000):
        print({SIGNS!r})
        print({SIGNS!r}, file=sys.stderr)
    sys.stdout.flush()
    open("done", "w").close()
sys.exit(exit_on_user_error(job))
"""


def run(words: list[str], folder: Path, encoding: str = "utf-8", shell: str = "", **streams: object):
    """Run Python with these words, its streams redirected as ``shell`` says; return the ended process."""
    command = f'"$@" {shell}'
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(
        ["bash", "-c", command, "bash", sys.executable, *words],
        cwd=folder,
        env=environment,
        timeout=60,
        **({"capture_output": True} | streams),
    )


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "koi8-r", "gb2312", "utf-8", "utf-16"])
def test_signs_that_the_encoding_lacks_are_replaced(tmp_path: Path, encoding: str) -> None:
    ended = run(["-c", PROGRAM], tmp_path, encoding)
    assert ended.returncode == 0 and (tmp_path / "done").exists()
    for printed in (ended.stdout, ended.stderr):
        lines = printed.decode(encoding).splitlines()
        assert len(lines) == 2000 and len(set(lines)) == 1
    # What the encoding has is left as it is; what it lacks has its plain form.
    plain = dict(zip("●┤└─–−×±…→“é”漢字\udcff😀", PLAIN_SIGNS, strict=True))
    expected = "".join(sign if _has(encoding, sign) else plain[sign] for sign in SIGNS)
    assert lines[0] == expected
    if encoding == "ascii":
        assert expected == PLAIN


PLAIN_SIGNS = [*"*|+---x", "+/-", "...", "->", '"', r"\xe9", '"', r"\u6f22", r"\u5b57", r"\udcff", r"\U0001f600"]


def _has(encoding: str, sign: str) -> bool:
    try:
        sign.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


TALKER = """
import sys
from ds_bert.terminal import keep_printing
keep_printing()
word, more = sys.argv[1] * 30, sys.argv[2:]
for _ in range(3000):
    print(word, flush=bool(more))
    print(f"{word}\\n{word}", file=sys.stderr)
"""


@pytest.mark.parametrize("unbuffered", [True, False])
def test_lines_of_several_processes_in_one_pipe_stay_whole(tmp_path: Path, unbuffered: bool) -> None:
    options = "-u" if unbuffered else ""
    talkers = " & ".join(f'"$@" {options} -c "$TALKER" {word} {"" if unbuffered else "flushed"}' for word in "abc")
    with_talkers = {**os.environ, "PYTHONPATH": str(REPOSITORY), "TALKER": TALKER}
    command = ["bash", "-c", f"{{ {talkers} & wait; }} 2>&1", "bash", sys.executable]
    ended = subprocess.run(command, cwd=tmp_path, env=with_talkers, capture_output=True, timeout=120, text=True)
    lines = ended.stdout.splitlines()
    assert len(lines) == 3 * 3000 * 3
    assert {*lines} == {word * 30 for word in "abc"}


READERS = {
    "a reader that leaves": ("| head -n 1 > first", b""),
    "a reader that has left": ("| true", b""),
    "closed stdout": (">&-", b""),
    "closed stderr": ("2>&-", b""),
    "all closed": ("<&- >&- 2>&-", b""),
    "a full disk": ("> /dev/full", b"warning: stdout cannot be written (No space left on device)"),
    "a full disk for both": ("> /dev/full 2>&1", b""),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("unbuffered", [False, True])
def test_a_job_goes_on_when_nobody_reads(tmp_path: Path, reader: str, unbuffered: bool) -> None:
    redirected, said = READERS[reader]
    ended = run(["-u"] * unbuffered + ["-c", PROGRAM], tmp_path, shell=f'{redirected}; exit "${{PIPESTATUS[0]}}"')
    assert ended.returncode == 0 and (tmp_path / "done").exists()
    assert b"Traceback" not in ended.stderr and b"Exception ignored" not in ended.stderr
    assert ended.stderr.count(b"cannot be written") == bool(said) and said in ended.stderr


def test_a_pipe_that_does_not_wait_loses_nothing(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    slow = subprocess.Popen([sys.executable, "-c", "import sys, time; time.sleep(1); print(len(sys.stdin.read()))"],
                            stdin=reading, stdout=subprocess.PIPE)  # fmt: skip
    os.close(reading)
    ended = run(["-c", PROGRAM], tmp_path, stdout=writing, stderr=subprocess.DEVNULL, capture_output=False)
    os.close(writing)
    assert ended.returncode == 0
    assert int(slow.communicate(timeout=60)[0]) == 2000 * (len(SIGNS.replace("\udcff", r"\udcff")) + 1)


def test_stdin_and_files_do_not_take_the_place_of_a_closed_stream(tmp_path: Path) -> None:
    program = "from ds_bert.errors import exit_on_user_error\nimport os\n" + (
        "def job():\n    with open('kept', 'w') as file:\n"
        "        assert file.fileno() > 2\n        os.write(1, b'printed in C')\n"
        "raise SystemExit(exit_on_user_error(job))"
    )
    assert run(["-c", program], tmp_path, shell="<&- >&- 2>&-").returncode == 0
    assert (tmp_path / "kept").read_bytes() == b""


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_ends_quietly_when_its_reader_has_left(tmp_path: Path, command: str) -> None:
    words = ["-m", "ds_bert.cli", command, "--help"]
    ended = run(words, tmp_path, "ascii", '| true; exit "${PIPESTATUS[0]}"')
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_a_command_that_prints_a_table(tmp_path: Path) -> None:
    words = ["-m", "ds_bert.cli", "stage-map", "show", "bert24_8x8", "--config_name", "bert24"]
    whole = run(words, tmp_path)
    assert whole.returncode == 0 and "×" in whole.stdout.decode()
    assert run(words, tmp_path, "ascii").stdout.decode() == whole.stdout.decode().replace("×", "x").replace("–", "-")
    ended = run(words, tmp_path, shell='| true; exit "${PIPESTATUS[0]}"')
    assert (ended.returncode, ended.stderr) == (0, b"")


SPEAKER = [sys.executable, "-c", """
from ds_bert.terminal import complain, fact, heading, keep_printing, table, warn
keep_printing()
warn("a")
complain("b")
print(heading("c"))
print(fact("d", "e"))
print(table(("f", "g"), [("h " * 60 + "i", "12345")], texts=("f",)))
"""]  # fmt: skip
STYLED = re.compile(r"\x1b\[[\d;]*m")
SAID = ["warning: a", "error: b", "c", "d:      e"]


@pytest.mark.parametrize(
    ("environment", "is_coloured"),
    [
        ({}, True),
        ({"NO_COLOR": ""}, True),
        ({"NO_COLOR": "1"}, False),
        ({"NO_COLOR": "1", "FORCE_COLOR": "1"}, False),
        ({"TERM": "dumb"}, False),
        ({"TERM": "dumb", "FORCE_COLOR": "1"}, True),
    ],
    ids=str,
)
def test_a_terminal_has_colours_unless_it_is_told_otherwise(environment: dict[str, str], is_coloured: bool) -> None:
    status, written = on_terminal(SPEAKER, PYTHONPATH=str(REPOSITORY), **environment)
    assert status == 0 and STYLED.sub("", written).splitlines()[:4] == SAID
    if is_coloured:
        for said in (f"{YELLOW}warning:", f"{RED}error:", f"{BOLD}c", f"{BOLD}d:", f"{BOLD}f"):
            assert said in written
    else:
        assert "\x1b" not in written


def test_a_narrow_terminal_folds_words_of_a_table_and_no_numbers() -> None:
    _, written = on_terminal(SPEAKER, columns=40, PYTHONPATH=str(REPOSITORY))
    lines = STYLED.sub("", written).splitlines()[4:]
    assert len(lines) > 4 and all(len(line) <= 40 for line in lines)
    assert sorted(" ".join(lines[1:]).split()) == ["12345", *"h" * 60, "i"]
    _, written = on_terminal(SPEAKER, columns=5, PYTHONPATH=str(REPOSITORY))  # nothing is lost where all is too narrow
    assert "12345" in written


@pytest.mark.parametrize("environment", [{}, {"FORCE_COLOR": "1"}, {"COLUMNS": "20"}], ids=str)
def test_a_pipe_gets_whole_lines(environment: dict[str, str]) -> None:
    command = {**plain_environment(), "PYTHONPATH": str(REPOSITORY), "TERM": "xterm", **environment}
    ended = subprocess.run(
        SPEAKER, env=command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60
    )
    assert ("\x1b" in ended.stdout) == ("FORCE_COLOR" in environment)
    lines = STYLED.sub("", ended.stdout).splitlines()
    assert lines == [*SAID, f"f{' ' * 126}g", "h " * 60 + "i  12345"]


def test_a_table_is_aligned_whatever_its_cells_hold() -> None:
    rows = [("漢字", "1"), ("[bold]a[/] :smile:", "1,000"), ("\udcff", "–"), ("", "2.5%")]
    lines = terminal.table(("name", "number"), rows, texts=("name",)).splitlines()
    assert lines == [
        "name                number",
        "漢字                     1",
        "[bold]a[/] :smile:   1,000",
        "\udcff                        –",
        "                      2.5%",
    ]
    assert terminal.table(("name", "number"), [], texts=("name",)) == "name  number"
