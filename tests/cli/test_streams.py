"""The terminal's side: locales of ASCII only, readers that go away, configs from pipes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest
from cli_runs import REPOSITORY, TINY, call

from plasticity_rl.cli import streams
from plasticity_rl.errors import UserError

ASCII = {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
FROM_REPOSITORY = {**os.environ, "PYTHONPATH": str(REPOSITORY)}


def test_in_a_locale_of_ascii_only_a_folder_has_its_name(tmp_path):
    (tmp_path / "ünï").mkdir()
    result = subprocess.run(
        [sys.executable, "-m", "plasticity_rl", "doctor", "--config=ünï"],
        cwd=tmp_path / "ünï",
        env={**FROM_REPOSITORY, **ASCII},
        capture_output=True,
        check=False,
    )
    assert result.returncode == 2
    assert result.stderr.startswith(rb"error: --config \xfcn\xef: no such file")  # an ASCII terminal shows no more


def test_a_reader_that_goes_away_is_no_error_and_a_full_disk_is_one_line():
    command = [sys.executable, "-m", "plasticity_rl", "list", "configs"]
    for output, code, said in (("gone", 0, b""), ("/dev/full", 2, b"error: the output cannot be written (No space")):
        reading, writing = os.pipe()
        os.close(reading)
        if output != "gone":
            writing = os.open(output, os.O_WRONLY)
        result = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, env=FROM_REPOSITORY, check=False)
        os.close(writing)
        assert (result.returncode, result.stderr[: len(said)]) == (code, said), result.stderr


def test_what_nobody_reads_is_swallowed_by_the_descriptor_too():
    reading, writing = os.pipe()
    output = streams._Output(writing)
    os.close(reading)
    assert [output.write(b"abc") for _ in range(2)] == [3, 3]
    assert isinstance(output.error, BrokenPipeError)
    assert os.write(writing, b"abc") == 3  # as a C library, or a process that was started, would
    os.close(writing)


def test_a_name_that_is_no_utf8_is_refused():
    with pytest.raises(UserError, match=r"the argument --trainer\.default_root_dir=b\\udcfc is not UTF-8, in which"):
        streams.refuse_undecodable(["fit", "--trainer.default_root_dir=b\udcfc"])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("data: {n_stp: 3}", "n_stp'. Did you mean --data.n_step"),
        ("data: [3", "--config: the text given is not valid YAML"),
        ("", "must hold options (data:, model:, trainer:, ...), but holds nothing"),
        ("data: {n_step: 4}", ""),
    ],
)
def test_a_config_comes_from_a_pipe(text, says):
    for options in (["--config={}"], ["-c", "{}"])[bool(says) :]:
        reading, writing = os.pipe()
        threading.Thread(target=lambda end=writing: (os.write(end, text.encode()), os.close(end))).start()
        result = call("fit", *TINY, *(option.format(f"/dev/fd/{reading}") for option in options), "--print_config")
        os.close(reading)
        assert (result.code, says in result.err) == (2 * bool(says), True), result.err
        assert says or "n_step: 4" in result.out
