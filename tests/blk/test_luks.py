"""Encrypted images: LUKS containers and encrypted qcow2, here and in the distribution's tools."""
import base64
import json
import os
import subprocess

import pytest
from conftest import need, program

SECRET = ('--object', 'secret,id=s,data=correct-horse')
MB = 1 << 20
FAST = 'iter-time=20'


def tool(name, *args, ok=True, theirs=False):
    exe = need(name, 'qemu-utils') if theirs else program(name)
    for _ in range(5 if theirs else 1):  # theirs gives up when its own timing of the key derivation was disturbed
        p = subprocess.run([exe, *map(str, args)], capture_output=True, text=True, timeout=100)
        if 'Unable to get accurate CPU usage' not in p.stderr:
            break
    assert (p.returncode == 0) == ok, p.stdout + p.stderr
    return p.stdout + p.stderr


def where(fmt, path, key='s'):
    k = 'key-secret' if fmt == 'luks' else 'encrypt.key-secret'
    return f'driver={fmt},file.driver=file,file.filename={path},{k}={key}'


def opts(fmt, more=''):
    p = '' if fmt == 'luks' else 'encrypt.'
    head = f'{p}key-secret=s,{p}{FAST}' + ('' if fmt == 'luks' else ',encrypt.format=luks')
    return head + ''.join(f',{p}{m}' for m in more.split(',') if m)


CIPHERS = ['', 'cipher-alg=aes-128', 'cipher-alg=serpent-256', 'cipher-alg=twofish-256,cipher-mode=cbc,ivgen-alg=plain64',
           'cipher-alg=aes-256,cipher-mode=cbc,ivgen-alg=essiv,ivgen-hash-alg=sha256', 'hash-alg=sha512', 'hash-alg=sha1,ivgen-alg=plain']


@pytest.mark.proves('F-IMG-02')
@pytest.mark.parametrize('fmt', ['luks', 'qcow2'])
@pytest.mark.parametrize('more', [CIPHERS[4], *[pytest.param(c, marks=pytest.mark.long) for i, c in enumerate(CIPHERS) if i != 4]])
def test_ours_is_read_by_theirs_and_back(tmp_path, fmt, more):
    for maker, reader in ((False, True), (True, False)):
        p = tmp_path / f'{int(maker)}.img'
        tool('qemu-img', 'create', '-q', '-f', fmt, *SECRET, '-o', opts(fmt, more), p, '4M', theirs=maker)
        for writer, pattern, at in ((maker, 7, '64k'), (reader, 9, '2M')):
            tool('qemu-io', *SECRET, '--image-opts', where(fmt, p), '-c', f'write -P {pattern} {at} 70k', theirs=writer)
        for who in (maker, reader):
            out = tool('qemu-io', *SECRET, '--image-opts', where(fmt, p), '-c', 'read -P 7 64k 70k', '-c', 'read -P 9 2M 70k', theirs=who)
            assert 'Pattern' not in out
        assert bytes([7]) * 512 not in p.read_bytes()
        if fmt == 'qcow2':
            assert 'No errors' in tool('qemu-img', 'check', *SECRET, '--image-opts', where(fmt, p), theirs=reader)
            assert 'No errors' in tool('qemu-img', 'check', *SECRET, '--image-opts', where(fmt, p), theirs=maker)


@pytest.mark.parametrize('fmt', ['luks', 'qcow2'])
def test_convert_in_and_out(tmp_path, fmt):
    src, enc, back = tmp_path / 'src.raw', tmp_path / 'enc', tmp_path / 'back.raw'
    src.write_bytes(os.urandom(MB) + bytes(2 * MB) + os.urandom(MB))
    tool('qemu-img', 'convert', *SECRET, '-f', 'raw', '-O', fmt, '-o', opts(fmt), src, enc)
    tool('qemu-img', 'convert', *SECRET, '--image-opts', where(fmt, enc), '-O', 'raw', back)
    assert back.read_bytes() == src.read_bytes()
    tool('qemu-img', 'convert', *SECRET, '--image-opts', where(fmt, enc), '-O', 'raw', back, theirs=True)
    assert back.read_bytes() == src.read_bytes()


@pytest.mark.parametrize('fmt', ['luks', 'qcow2'])
def test_wrong_and_missing_keys_are_refused(tmp_path, fmt):
    p = tmp_path / 'x'
    tool('qemu-img', 'create', '-q', '-f', fmt, *SECRET, '-o', opts(fmt), p, '1M')
    bad = ('--object', 'secret,id=s,data=wrong')
    assert 'Invalid password' in tool('qemu-io', *bad, '--image-opts', where(fmt, p), '-c', 'read 0 512', ok=False)
    assert 'No secret with id' in tool('qemu-io', '--image-opts', where(fmt, p), '-c', 'read 0 512', ok=False)
    assert 'is required' in tool('qemu-io', '-f', fmt, p, '-c', 'read 0 512', ok=False)
    info = json.loads(tool('qemu-img', 'info', '--output=json', p))
    assert info['format'] == fmt and info['encrypted']
    data = info['format-specific']['data']
    data = data if fmt == 'luks' else data['encrypt']
    assert data['cipher-alg'] == 'aes-256' and data['slots'][0]['active'] and not data['slots'][1]['active']
    theirs = json.loads(tool('qemu-img', 'info', '--output=json', p, theirs=True))['format-specific']['data']
    assert data == (theirs if fmt == 'luks' else theirs['encrypt'])


def test_retired_qcow2_cipher_is_read(tmp_path):
    p = tmp_path / 'aes.qcow2'
    tool('qemu-img', 'create', '-q', '-f', 'qcow2', *SECRET, '-o', 'encrypt.format=aes,encrypt.key-secret=s', p, '1M', theirs=True)
    raw = tmp_path / 'r.raw'
    raw.write_bytes(os.urandom(300000))
    tool('qemu-img', 'convert', '-q', '-n', *SECRET, '-f', 'raw', '--target-image-opts', raw, where('qcow2', p), theirs=True)
    out = tmp_path / 'o.raw'
    tool('qemu-img', 'convert', *SECRET, '--image-opts', where('qcow2', p), '-O', 'raw', out)
    assert out.read_bytes()[:300000] == raw.read_bytes()
    ours = tmp_path / 'n'
    tool('qemu-img', 'create', '-q', '-f', 'qcow2', *SECRET, '-o', 'encrypt.format=aes,encrypt.key-secret=s', ours, '1M')
    tool('qemu-img', 'convert', '-q', '-n', *SECRET, '-f', 'raw', '--target-image-opts', raw, where('qcow2', ours))
    tool('qemu-img', 'convert', *SECRET, '--image-opts', where('qcow2', ours), '-O', 'raw', out, theirs=True)
    assert out.read_bytes()[:300000] == raw.read_bytes()


def test_secrets_from_files_base64_and_wrapped(tmp_path):
    p = tmp_path / 'x'
    (tmp_path / 'pw').write_text('correct-horse')
    tool('qemu-img', 'create', '-q', '-f', 'luks', *SECRET, '-o', opts('luks'), p, '1M')
    master = bytes(range(32))
    iv = bytes(16)
    enc = subprocess.run([need('openssl'), 'enc', '-aes-256-cbc', '-K', master.hex(), '-iv', iv.hex()], input=b'correct-horse',
                         capture_output=True, check=True).stdout
    b64 = lambda b: base64.b64encode(b).decode()
    for objs in ([f'secret,id=s,file={tmp_path}/pw'], [f'secret,id=s,format=base64,data={b64(b"correct-horse")}'],
                 [f'secret,id=m,format=base64,data={b64(master)}', f'secret,id=s,keyid=m,iv={b64(iv)},data={b64(enc)}']):
        tool('qemu-io', *[x for o in objs for x in ('--object', o)], '--image-opts', where('luks', p), '-c', 'read 0 512')


def test_machine_opens_an_encrypted_drive(tmp_path):
    from lyre import Machine
    p = tmp_path / 'x.qcow2'
    tool('qemu-img', 'create', '-q', '-f', 'qcow2', *SECRET, '-o', opts('qcow2'), p, '1M')
    with Machine('-M', 'q35', '-accel', 'qtest', '-object', 'secret,id=s,data=correct-horse',
                 '-drive', f'file={p},format=qcow2,if=virtio,encrypt.key-secret=s') as m:
        assert m.qmp('query-block')[0]['inserted']['encrypted'] is True
