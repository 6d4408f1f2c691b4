"""Random values to every port and register: the program stays alive and the sanitizers silent. make fuzz runs longer."""
import os

import pytest

import fuzz
from conftest import ROOT, program


def emulator():
    """The build with ASan and UBSan when there is one, else the plain one: it must not die either."""
    asan = os.path.join(ROOT, 'build-asan', 'bin', 'qemu-system-x86_64')
    return asan if os.access(asan, os.X_OK) else program('qemu-system-x86_64')


@pytest.mark.limit(300)
@pytest.mark.parametrize('devices', ['default', 'full'])
@pytest.mark.parametrize('machine', ['pc', 'q35'])
def test_random_accesses(machine, devices):
    full = devices == 'full'
    bad = fuzz.fuzz(fuzz.command(emulator(), machine, full), 50000, 1, master=full)
    assert bad is None, bad


@pytest.mark.long
@pytest.mark.limit(1800)
@pytest.mark.parametrize('devices', ['default', 'full'])
@pytest.mark.parametrize('machine', ['pc', 'q35'])
def test_a_million_random_accesses(machine, devices):
    full = devices == 'full'
    bad = fuzz.fuzz(fuzz.command(emulator(), machine, full), 1000000, 3, master=full)
    assert bad is None, bad
