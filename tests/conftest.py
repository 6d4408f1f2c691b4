"""Frame of all Python suites: program paths, time limits, and one result line per test for the ledger.

A test declares its rows with @pytest.mark.proves("F-FW-03", "S052"), more time with @pytest.mark.limit(300), and
belongs to make check-long with @pytest.mark.long. A missing tool is a skip that names it: use need()."""
import atexit
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
for folder in ('tools', 'tests', 'tests/machine'):
    sys.path.insert(0, os.path.join(ROOT, folder))


# Under nohup SIGHUP arrives ignored and every program started here would inherit that.
signal.signal(signal.SIGHUP, signal.SIG_DFL)


def build_dir():
    return os.environ.get('LYREBIRD_BUILD', os.path.join(ROOT, 'build'))


def _wrapped():
    """With LYREBIRD_ACCEL_SET the system emulators are wrappers that add these properties to the translator's: a build folder of links."""
    if not os.environ.get('LYREBIRD_ACCEL_SET') or os.environ.get('LYREBIRD_REAL'):
        return
    real = build_dir()
    fake = tempfile.mkdtemp(prefix='lyrebird-set-')
    for entry in os.listdir(real):
        if entry != 'bin':
            os.symlink(os.path.join(real, entry), os.path.join(fake, entry))
    os.mkdir(os.path.join(fake, 'bin'))
    for entry in os.listdir(os.path.join(real, 'bin')):
        wrap = entry.startswith('qemu-system-')
        os.symlink(os.path.join(ROOT, 'tools', 'accel_wrap.sh') if wrap else os.path.join(real, 'bin', entry), os.path.join(fake, 'bin', entry))
    os.environ['LYREBIRD_REAL'] = os.path.join(real, 'bin')
    os.environ['LYREBIRD_BUILD'] = fake
    atexit.register(shutil.rmtree, fake, ignore_errors=True)


_wrapped()


def program(name):
    """Path of one of our programs; skips loudly when it was not built."""
    for folder in ('bin', 'src/cmd'):
        path = os.path.join(build_dir(), folder, name)
        if os.access(path, os.X_OK):
            return path
    pytest.skip(f'{name} is not built')


def need(tool, package=None):
    """Path of a host tool, or a skip that names the package it comes in."""
    path = shutil.which(tool, path=os.environ.get('PATH', '') + ':/usr/sbin:/sbin')
    if not path:
        pytest.skip(f'{tool} is missing (package {package or tool})')
    return path


def host_lacks(what):
    """Skips because of what no package brings: a device, a right, a kernel part. Claims resting on it are then open here, not false."""
    pytest.skip('host: ' + what)


@pytest.fixture
def qemu():
    return program('qemu-system-x86_64')


# The settings of the translator that make what is rare happen often are slow: every wait is stretched.
SLOW = int(os.environ.get('LYREBIRD_SLOW') or (6 if os.environ.get('LYREBIRD_ACCEL_SET') else 1))


class OutOfTime(Exception):
    pass


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item):
    mark = item.get_closest_marker('limit')
    seconds = (int(mark.args[0]) if mark else 120) * SLOW

    def ring(signum, frame):
        raise OutOfTime(f'no end after {seconds} s')
    old = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, old)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    report.proves = sorted({i for m in item.iter_markers('proves') for i in m.args})


def pytest_deselected(items):
    """Tests of make check-long are known to the ledger though they did not run: a claim may name them, but they prove nothing today."""
    path = os.environ.get('LYREBIRD_RESULTS')
    if path:
        with open(path, 'a', encoding='utf-8') as f:
            for item in items:
                proves = sorted({i for m in item.iter_markers('proves') for i in m.args})
                f.write(json.dumps({'test': item.nodeid, 'outcome': 'long', 'proves': proves, 's': 0.0, 'why': ''}) + '\n')


_seen = {}


def pytest_runtest_logreport(report):
    path = os.environ.get('LYREBIRD_RESULTS')
    if not path:
        return
    r = _seen.setdefault(report.nodeid, {'test': report.nodeid, 'outcome': 'passed', 'proves': [], 's': 0.0, 'why': ''})
    r['proves'] = getattr(report, 'proves', r['proves'])
    r['s'] += report.duration
    if report.failed:
        r['outcome'] = 'failed'
        crash = getattr(report.longrepr, 'reprcrash', None)
        r['why'] = str(crash.message if crash else report.longrepr).split('\n')[0][:300]
    elif report.skipped and r['outcome'] == 'passed':
        r['outcome'] = 'skipped'
        r['why'] = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else '')[:300]
    if report.when == 'teardown':
        r['s'] = round(r['s'], 3)
        with open(path, 'a', encoding='utf-8') as f:
            f.write(json.dumps(_seen.pop(report.nodeid)) + '\n')


@pytest.fixture(scope='session')
def images(tmp_path_factory):
    """Folder of the x86 firmware images of tests/guest/x86, built by the host's compiler."""
    need('gcc')
    need('ld', 'binutils')
    out = tmp_path_factory.mktemp('images')
    p = subprocess.run(['sh', os.path.join(ROOT, 'tests', 'guest', 'x86', 'build.sh'), str(out)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if p.returncode:
        pytest.skip('the compiler cannot build 32-bit images: ' + p.stdout[-200:])
    return out
