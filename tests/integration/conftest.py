"""Runs command lines as a user does, in this process, and gives back their JSON line."""

import json

import pytest

from kd3d.cli import main as program


@pytest.fixture
def kd3d(capsys):
    def call(*arguments):
        code = program.run([*map(str, arguments), "--json"])
        said = capsys.readouterr()
        assert code == 0, f"kd3d {' '.join(map(str, arguments))} ended with {code}: {said.err[-2000:]}"
        return json.loads(said.out.strip().splitlines()[-1])

    return call
