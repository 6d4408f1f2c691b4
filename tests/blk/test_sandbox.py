"""The image tools shut themselves in before they read an image (tests/unit/cmd/shut_test.c has what that keeps out)."""
import os
import re
import resource
import statistics
import subprocess
import time

import pytest
from conftest import host_lacks, program

MB = 1 << 20


def tool(name, *args, ok=True, env=None, cwd=None):
    p = subprocess.run([program(name), *map(str, args)], capture_output=True, text=True, timeout=100, env={**os.environ, **(env or {})}, cwd=cwd)
    assert (p.returncode == 0) == ok, p.stdout + p.stderr
    return p.stdout + p.stderr


@pytest.fixture
def image(tmp_path):
    p = tmp_path / 'a.qcow2'
    tool('qemu-img', 'create', '-q', '-f', 'qcow2', p, '64M')
    return p


@pytest.mark.proves('F-IMG-17')
def test_the_trace_says_what_is_in_force(image):
    said = tool('qemu-img', '--trace', 'sandbox', 'info', image)
    assert 'sandbox: in force:' in said
    if 'Landlock' not in said.split('sandbox:')[1] or 'no Landlock' in said:
        host_lacks('Landlock')
    assert 'sandbox: in force' in tool('qemu-io', '--trace', 'sandbox', '-c', 'read 0 512', image)
    assert 'sandbox: not in force: LYREBIRD_SANDBOX=off' in tool('qemu-img', '-T', 'sandbox', 'info', image, env={'LYREBIRD_SANDBOX': 'off'})
    assert 'names a network or folder protocol' in tool('qemu-img', '--trace=sandbox', 'info', 'nbd://127.0.0.1:1/x', ok=False)
    assert 'there is: sandbox' in tool('qemu-img', '--trace', 'nosuch', 'info', image, ok=False)


def status(pid, field):
    return int(re.search(rf'{field}:\s+(\d+)', open(f'/proc/{pid}/status').read())[1])


@pytest.mark.proves('F-IMG-17')
def test_the_kernel_says_so_too(image, tmp_path):
    tool('qemu-io', '-c', 'write -P 1 0 8M', image)
    p = subprocess.Popen([program('qemu-img'), 'convert', '-r', '1M', '-O', 'raw', image, tmp_path / 'o'])
    try:
        end = time.monotonic() + 20
        while status(p.pid, 'Seccomp') != 2 and time.monotonic() < end:
            time.sleep(0.02)
        assert status(p.pid, 'Seccomp') == 2 and status(p.pid, 'NoNewPrivs') == 1
        outside = [int(x) for x in open(f'/proc/{p.pid}/task/{p.pid}/children').read().split()]
        assert len(outside) == 1
        while os.path.exists(f'/proc/{outside[0]}/fd/4') and time.monotonic() < end:  # no file of the image stays open there
            time.sleep(0.02)
        assert time.monotonic() < end
    finally:
        p.kill()
        p.wait()
    end = time.monotonic() + 10
    while os.path.exists(f'/proc/{outside[0]}') and open(f'/proc/{outside[0]}/stat').read().split()[2] != 'Z' and time.monotonic() < end:
        time.sleep(0.05)
    assert time.monotonic() < end


@pytest.mark.proves('F-IMG-17')
def test_files_named_in_every_way_are_opened(tmp_path):
    far, near = tmp_path / 'far', tmp_path / 'near'
    far.mkdir()
    near.mkdir()
    tool('qemu-img', 'create', '-q', '-f', 'qcow2', far / 'base,1.qcow2', '8M')
    tool('qemu-io', '-c', 'write -P 7 0 64k', far / 'base,1.qcow2')
    tool('qemu-img', 'create', '-q', '-f', 'qcow2', '-b', far / 'base,1.qcow2', '-F', 'qcow2', near / 'mid.qcow2')
    tool('qemu-img', 'create', '-q', '-f', 'qcow2', '-b', 'mid.qcow2', '-F', 'qcow2', near / 'top.qcow2')
    assert 'Pattern' not in tool('qemu-io', '-c', 'read -P 7 0 64k', near / 'top.qcow2')
    assert 'Pattern' not in tool('qemu-io', '-c', 'read -P 7 0 64k', 'top.qcow2', cwd=near)
    assert 'Pattern' not in tool('qemu-io', '--image-opts', f'driver=qcow2,file.filename={far}/base,,1.qcow2', '-c', 'read -P 7 0 64k')
    assert 'Pattern' not in tool('qemu-io', '-c', 'read -P 7 0 64k', 'json:{"driver":"qcow2","file":{"driver":"file","filename":"near/top.qcow2"}}', cwd=tmp_path)
    assert 'Pattern' not in tool('qemu-io', '-c', 'open near/top.qcow2', '-c', 'read -P 7 0 64k', cwd=tmp_path)
    tool('qemu-img', 'convert', '-O', 'vmdk', '-o', 'subformat=twoGbMaxExtentSparse', near / 'top.qcow2', near / 'split.vmdk')
    tool('qemu-img', 'convert', '-O', 'qcow2', '-o', 'data_file=d.raw,data_file_raw=on', near / 'split.vmdk', near / 'ext.qcow2')
    assert 'Pattern' not in tool('qemu-io', '-c', 'read -P 7 0 64k', near / 'ext.qcow2')
    tool('qemu-io', '-c', 'write -P 9 64k 64k', near / 'top.qcow2')
    tool('qemu-img', 'commit', near / 'top.qcow2')
    assert 'Pattern' not in tool('qemu-io', '-c', 'read -P 9 64k 64k', near / 'mid.qcow2')
    p = tool('qemu-img', 'info', near / 'nosuch.qcow2', ok=False)
    assert 'No such file or directory' in p


@pytest.mark.proves('F-IMG-17')
def test_a_held_image_still_names_its_holder(image):
    q = subprocess.Popen([program('qemu-io'), image], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        q.stdin.write('length\n')
        q.stdin.flush()
        assert '64 MiB' in q.stdout.readline()
        assert f'process {q.pid} (' in tool('qemu-img', 'resize', image, '+1M', ok=False)
    finally:
        q.stdin.close()
        q.wait(20)


def test_starting_costs_next_to_nothing(image):
    """Processor time of qemu-img info, shut in or not, in turns: less than 4 ms between the medians on a busy machine."""
    def once(env):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        tool('qemu-img', 'info', image, env=env)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    on, off = zip(*((once({}), once({'LYREBIRD_SANDBOX': 'off'})) for _ in range(25)))
    assert statistics.median(on) - statistics.median(off) < 0.004
