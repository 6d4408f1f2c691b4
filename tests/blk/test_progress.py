"""Long jobs tell how far they are, on a terminal with rate and time left, when asked by a signal, and end cleanly when told to."""
import json
import os
import pty
import re
import select
import signal
import subprocess
import time

import pytest
from conftest import program

MB = 1 << 20


def tool(name, *args, ok=True):
    p = subprocess.run([program(name), *map(str, args)], capture_output=True, text=True, timeout=100)
    assert (p.returncode == 0) == ok, p.stdout + p.stderr
    return p.stdout + p.stderr


@pytest.fixture
def full(tmp_path):
    p = tmp_path / 'f.qcow2'
    tool('qemu-img', 'create', '-q', '-f', 'qcow2', p, '32M')
    tool('qemu-io', '-c', 'write -P 1 0 32M', p)
    return p


def on_terminal(words, limit=60):
    pid, fd = pty.fork()
    if not pid:
        os.execv(program('qemu-img'), ['qemu-img', *map(str, words)])
    seen, end = b'', time.monotonic() + limit
    while time.monotonic() < end:
        if select.select([fd], [], [], 1)[0]:
            try:
                got = os.read(fd, 65536)
            except OSError:
                break
            if not got:
                break
            seen += got
    os.close(fd)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), seen.decode()


def overlay(full, tmp_path):
    over = tmp_path / 'o.qcow2'
    tool('qemu-img', 'create', '-q', '-f', 'qcow2', '-b', full, '-F', 'qcow2', over)
    tool('qemu-io', '-c', 'write -P 3 0 24M', over)
    return over


@pytest.mark.proves('F-PRG-09')
def test_a_terminal_sees_percentage_rate_and_time_left(full, tmp_path):
    code, seen = on_terminal(['convert', '-p', '-r', '16M', '-O', 'raw', full, tmp_path / 'o.raw'])
    assert code == 0
    shown = [float(x) for x in re.findall(r'\((\d+\.\d\d)/100%\)', seen)]
    assert shown == sorted(shown) and shown[0] == 0 and shown[-1] == 100 and len(set(shown)) > 2
    assert re.search(r'\d(\.\d+)? MiB/s, 0:0\d left', seen)
    code, seen = on_terminal(['commit', '-p', '-r', '16M', overlay(full, tmp_path)])
    assert code == 0 and re.search(r'iB/s, 0:0\d left', seen) and '(100.00/100%)' in seen


@pytest.mark.proves('F-PRG-09')
def test_elsewhere_only_the_percentage_is_shown(full, tmp_path):
    said = tool('qemu-img', 'convert', '-p', '-O', 'raw', full, tmp_path / 'o.raw')
    assert '(100.00/100%)' in said and 'left' not in said
    assert '%' not in tool('qemu-img', 'convert', '-O', 'raw', full, tmp_path / 'o.raw')


@pytest.mark.proves('F-PRG-09')
@pytest.mark.parametrize('command', ['convert', 'commit'])
def test_sigusr1_is_answered_on_standard_error(full, tmp_path, command):
    words = ['convert', '-r', '8M', '-O', 'raw', full, tmp_path / 'o.raw'] if command == 'convert' else ['commit', '-r', '8M', overlay(full, tmp_path)]
    p = subprocess.Popen([program('qemu-img'), *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(1.2)
    p.send_signal(signal.SIGUSR1)
    assert select.select([p.stderr], [], [], 20)[0]
    line = p.stderr.readline()
    assert re.match(r' *\(\d+\.\d\d/100%\)  .*iB/s, 0:0\d left', line), line
    out, _ = p.communicate(timeout=60)
    assert p.returncode == 0 and '%' not in out


def stopped(words, sig, after=0.7):
    p = subprocess.Popen([program('qemu-img'), *map(str, words)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    time.sleep(after)
    p.send_signal(sig)
    start = time.monotonic()
    _, err = p.communicate(timeout=30)
    assert p.returncode == -sig, err
    assert time.monotonic() - start < 10
    return err


def sound(path):
    c = json.loads(tool('qemu-img', 'check', '--output=json', path))
    assert not c.get('corruptions') and not c.get('leaks') and not c.get('check-errors'), c


@pytest.mark.proves('F-PRG-09', 'F-IMG-02')
@pytest.mark.parametrize('sig', [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stopped_convert_leaves_a_sound_image(full, tmp_path, sig):
    assert 'interrupted' in stopped(['convert', '-r', '4M', '-O', 'qcow2', full, tmp_path / 'o.qcow2'], sig)
    sound(tmp_path / 'o.qcow2')
    sound(full)


@pytest.mark.proves('F-PRG-09', 'F-IMG-02')
def test_a_stopped_commit_loses_nothing(full, tmp_path):
    over = overlay(full, tmp_path)
    want = tmp_path / 'want.raw'
    tool('qemu-img', 'convert', '-O', 'raw', over, want)
    assert 'interrupted' in stopped(['commit', '-r', '4M', over], signal.SIGINT)
    for path in (over, full):
        sound(path)
    assert 'identical' in tool('qemu-img', 'compare', '-F', 'raw', over, want)
    tool('qemu-img', 'commit', over)
    assert 'identical' in tool('qemu-img', 'compare', '-F', 'raw', full, want)


@pytest.mark.proves('F-IMG-02')
@pytest.mark.parametrize('after', [0.15, 0.4, 1.1])
def test_a_killed_commit_loses_nothing(full, tmp_path, after):
    over = overlay(full, tmp_path)
    want = tmp_path / 'want.raw'
    tool('qemu-img', 'convert', '-O', 'raw', over, want)
    p = subprocess.Popen([program('qemu-img'), 'commit', '-q', '-r', '32M', over])
    time.sleep(after)
    p.kill()
    p.wait()
    for path in (over, full):
        c = json.loads(tool('qemu-img', 'check', '-r', 'leaks', '--output=json', path))
        assert not c.get('corruptions') and not c.get('check-errors')
    assert 'identical' in tool('qemu-img', 'compare', '-F', 'raw', over, want)


SLOW = ['--object', 'throttle-group,id=slow,x-bps-total=12582912', '--image-opts']


def slowly(path):
    """The image above a file that is read and written at 12 MiB a second."""
    return f'driver=qcow2,file.driver=throttle,file.throttle-group=slow,file.file.driver=file,file.file.filename={path}'


@pytest.fixture
def rebasing(full, tmp_path):
    """A rebase that takes about three seconds: what the old base shows has to be written into the overlay."""
    over = tmp_path / 'o.qcow2'
    tool('qemu-img', 'create', '-q', '-f', 'qcow2', '-b', full, '-F', 'qcow2', over)
    tool('qemu-img', 'create', '-q', '-f', 'qcow2', tmp_path / 'new.qcow2', '32M')
    return over, ['rebase', *SLOW, '-b', tmp_path / 'new.qcow2', '-F', 'qcow2', slowly(over)]


@pytest.mark.proves('F-PRG-09', 'F-IMG-02')
def test_a_stopped_rebase_still_shows_the_same_disk(full, tmp_path, rebasing):
    over, words = rebasing
    assert 'interrupted' in stopped(words, signal.SIGINT)
    sound(over)
    assert os.path.basename(json.loads(tool('qemu-img', 'info', '--output=json', over))['backing-filename']) == 'f.qcow2'
    assert 'identical' in tool('qemu-img', 'compare', over, full)
    own = [m for m in json.loads(tool('qemu-img', 'map', '--output=json', over)) if m['depth'] == 0 and m['present']]
    assert own and sum(m['length'] for m in own) < 32 * MB
    tool('qemu-img', 'rebase', '-b', tmp_path / 'new.qcow2', '-F', 'qcow2', over)
    assert 'identical' in tool('qemu-img', 'compare', over, full)


@pytest.mark.proves('F-PRG-09')
@pytest.mark.parametrize('what', ['compare', 'rebase'])
def test_compare_and_rebase_tell_how_far_they_are(full, tmp_path, rebasing, what):
    words = rebasing[1] if what == 'rebase' else ['compare', *SLOW, slowly(full), slowly(tmp_path / 'p.qcow2')]
    if what == 'compare':
        tool('qemu-img', 'convert', '-O', 'qcow2', full, tmp_path / 'p.qcow2')
    p = subprocess.Popen([program('qemu-img'), *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(1.0)
    p.send_signal(signal.SIGUSR1)
    assert select.select([p.stderr], [], [], 20)[0]
    line = p.stderr.readline()
    assert re.match(r' *\(\d+\.\d\d/100%\)  .*iB/s, 0:\d\d left', line) and '(100.' not in line, line
    out, err = p.communicate(timeout=90)
    assert p.returncode == 0 and '%' not in out, err
    code, seen = on_terminal([words[0], '-p', *words[1:]] if what == 'compare' else [words[0], '-p', '-u', '-b', full, '-F', 'qcow2', rebasing[0]])
    assert code == 0
    if what == 'compare':
        shown = [float(x) for x in re.findall(r'\((\d+\.\d\d)/100%\)', seen)]
        assert shown == sorted(shown) and shown[0] == 0 and shown[-1] == 100 and len(set(shown)) > 2


@pytest.mark.proves('F-PRG-09')
def test_a_stopped_compare_ends_at_once(full, tmp_path):
    tool('qemu-img', 'convert', '-O', 'qcow2', full, tmp_path / 'p.qcow2')
    stopped(['compare', *SLOW, slowly(full), slowly(tmp_path / 'p.qcow2')], signal.SIGINT)
    sound(full)


def test_what_cannot_be_divided_ends_at_once(full):
    p = subprocess.Popen([program('qemu-img'), 'bench', '-c', '100000000', full], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(0.5)
    p.send_signal(signal.SIGINT)
    assert p.wait(10) == -signal.SIGINT
