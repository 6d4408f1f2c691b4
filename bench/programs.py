"""Real programs: Debian's packages in a tree of their own, the same files natively (chroot) and in a guest (as a disk).
The inputs are made here, the same in every run: text is the Python library's source, the rest is generated."""
import os
import random
import shutil
import subprocess

import common
import guest

PACKAGES = ('base-files', 'libc6', 'libc-bin', 'bash', 'dash', 'coreutils', 'libacl1', 'libattr1', 'libselinux1', 'libpcre2-8-0', 'libgmp10',
            'libtinfo6', 'gzip', 'xz-utils', 'liblzma5', 'zstd', 'libzstd1', 'liblz4-1', 'zlib1g', 'libgcc-s1', 'libstdc++6',
            'python3.11-minimal', 'libpython3.11-minimal', 'libpython3.11-stdlib', 'libexpat1', 'libbz2-1.0', 'libssl3', 'libffi8',
            'perl-base', 'libcrypt1', 'cpp-12', 'libmpfr6', 'libmpc3', 'libisl23', 'sqlite3', 'libsqlite3-0', 'libreadline8',
            'openssl', 'lua5.4', 'liblua5.4-0', '7zip')

PY = '''
import json, re, collections
def nqueens(n, row=0, cols=0, d1=0, d2=0):
    if row == n:
        return 1
    free, found = ~(cols | d1 | d2) & ((1 << n) - 1), 0
    while free:
        bit = free & -free
        free ^= bit
        found += nqueens(n, row + 1, cols | bit, (d1 | bit) << 1, (d2 | bit) >> 1)
    return found
class Shape:
    def __init__(self, i):
        self.name, self.sides = 'shape%d' % i, i % 7 + 3
    def area(self):
        return self.sides * len(self.name)
text = open('/in/text').read(400000)
words = collections.Counter(re.findall(r'[a-z_]{3,}', text.lower()))
shapes = [Shape(i) for i in range(20000)]
data = {w: [n, {'half': n / 2, 'text': w * 2}] for w, n in words.items()}
for _ in range(3):
    data = json.loads(json.dumps(data))
print(nqueens(8), sum(s.area() for s in shapes), sorted(words.items(), key=lambda x: (-x[1], x[0]))[:5], len(json.dumps(data)))
print(sum(int(x) for n in range(3000, 5000, 100) for x in str(7 ** n)), ''.join(sorted(text[:50000]))[40000:40010])
'''
PERL = r'''
open my $f, '<', '/in/text' or die; read $f, my $t, 1500000;
my (%n, $sum);
$n{lc $1}++ while $t =~ /([A-Za-z_]{3,})/g;
for my $w (sort { $n{$b} <=> $n{$a} || $a cmp $b } keys %n) { $sum += length($w) * $n{$w}; $sum %= 1000003; }
my @a = map { ($_ * 7919) % 10007 } 1 .. 40000; my $s = join ',', (sort { $a <=> $b } @a)[0 .. 20];
(my $u = $t) =~ s/(\w+)\s+(\w+)/$2 $1/g; my $c = () = $u =~ /self/g;
for my $i (1 .. 300000) { $sum = ($sum * 31 + $i) & 0xffffff; }
print scalar(keys %n), " $sum $s $c\n";
'''
BASH = r'''
declare -A n; sum=0; text=
for ((i = 0; i < 40000; i++)); do ((sum = (sum * 33 + i) & 0xffffff)); n[k$((i % 500))]=$((n[k$((i % 500))] + i)); done
for k in "${!n[@]}"; do ((sum ^= n[$k])); done
for i in {1..3000}; do text+=${i}x; case $text in *99x) sum=$((sum + 1)) ;; *7x) ((sum += 2)) ;; esac; [[ $text =~ 1([0-9])x$ ]] && ((sum += BASH_REMATCH[1])); text=${text: -40}; done
f() { local a=$1; ((a > 0)) && f $((a - 1)); }; for i in {1..60}; do f 60; done
for i in {1..60}; do v=$(echo $i); ((sum += v)); done
echo $sum
'''
LUA = '''
local t, n = {}, 0
for i = 1, 200000 do t[i] = (i * 7919) % 100003 end
table.sort(t)
for i = 1, #t do n = (n * 31 + t[i]) % 1000003 end
local f = io.open('/in/text'):read(300000)
local words = {}
for w in f:gmatch('[%a_]+') do words[w] = (words[w] or 0) + 1 end
local k = {}
for w, c in pairs(words) do k[#k + 1] = w .. c end
table.sort(k)
local function fib(x) if x < 2 then return x end return fib(x - 1) + fib(x - 2) end
local s = 0.0
for i = 1, 2000000 do s = s + i / (i + 1.5) end
print(n, #k, k[100], fib(24), string.format('%.6f', s))
'''
SQL = '''
create table a(id integer primary key, name text, val int, f real);
with recursive c(x) as (select 1 union all select x+1 from c where x<60000) insert into a select x, 'name' || (x*7919%10007), x*31%997, x/7.0 from c;
create index i on a(name); create index j on a(val);
select count(*), sum(val), round(sum(f),3) from a;
select val, count(*), max(name) from a group by val order by 2 desc, 1 limit 3;
select count(*) from a x join a y on x.name = y.name where x.val < 40;
update a set val = val + 1 where name like 'name1%';
delete from a where id % 3 = 0;
select count(*), sum(val), group_concat(substr(name,1,5)) from (select * from a order by name, id limit 10);
'''
CC1 = '/usr/lib/gcc/x86_64-linux-gnu/12/cc1'
# name: command line; its standard output is compared between the places
PROGRAMS = {
    'gzip': 'gzip -6 -n -c /in/text',
    'gunzip': 'gzip -dc /in/text.gz /in/text.gz /in/text.gz',
    'xz': 'xz -T1 -2 -c /in/text.2m',
    'unxz': 'xz -dc /in/text.xz',
    'zstd': 'zstd --single-thread -9 -q -c /in/text',
    '7zip': 'rm -f /tmp/o.7z; 7zz a -mx=3 -mmt=1 /tmp/o.7z /in/text.2m >/dev/null; 7zz x -so /tmp/o.7z',
    'sort': 'LC_ALL=C sort /in/words',
    'python': 'PYTHONHASHSEED=0 python3.11 -S /in/work.py',
    'perl': 'perl /in/work.pl',
    'bash': 'bash /in/work.sh',
    'lua': 'lua5.4 /in/work.lua',
    'cc1': f'{CC1} -quiet -O2 /in/calls.i -o -',
    'cc1_small': f'for i in 1 2 3; do {CC1} -quiet -O1 /in/memory.i -o -; done',
    'sqlite': 'sqlite3 :memory: </in/work.sql',
    'openssl_prime': 'openssl prime -hex ' + '7' + 'f' * 550,  # 2^2203-1
    'openssl_sha512': 'openssl dgst -r -sha512' + ' /in/text' * 12,
    'openssl_aes': 'for i in 1 2 3 4 5 6; do openssl enc -aes-256-cbc -K ' + '5a' * 32 + ' -iv ' + '3c' * 16 + ' -in /in/text; done',
}


def write(path, data):
    with open(path, 'wb') as f:
        f.write(data if isinstance(data, bytes) else data.encode())


def make_inputs(root):
    folder = os.path.join(root, 'in')
    lib = os.path.join(root, 'usr', 'lib', 'python3.11')
    text = bytearray()
    for name in sorted(os.listdir(lib)):
        if name.endswith('.py') and len(text) < 6 << 20:
            with open(os.path.join(lib, name), 'rb') as f:
                text += f.read()
    write(os.path.join(folder, 'text'), bytes(text))
    write(os.path.join(folder, 'text.2m'), bytes(text[:2 << 20]))
    rng = random.Random(1)
    words = bytes(text[:1 << 20]).split()
    rng.shuffle(words)
    write(os.path.join(folder, 'words'), b'\n'.join(words * 2) + b'\n')
    for name, data in (('work.py', PY), ('work.pl', PERL), ('work.sh', BASH), ('work.lua', LUA), ('work.sql', SQL)):
        write(os.path.join(folder, name), data)
    for name in ('calls', 'memory'):
        guest.sh('gcc', '-std=gnu11', '-E', '-P', '-o', os.path.join(folder, name + '.i'), os.path.join(common.ROOT, 'bench', 'work', name + '.c'))
    for name, cmd in (('text.gz', ['gzip', '-9', '-n', '-c', 'text']), ('text.xz', ['xz', '-T1', '-6', '-c', 'text'])):
        with open(os.path.join(folder, name), 'wb') as f:
            subprocess.run(cmd, cwd=folder, stdout=f, check=True)
    shutil.copy(common.micro(), os.path.join(root, 'bin', 'micro'))


def image():
    """(tree, disk image) of the programs; made once per package versions, recipe and micro-suite."""
    root = guest.root_tree('bench', PACKAGES)
    with open(__file__, 'rb') as f:
        key = common.hashlib.sha256(f.read() + os.path.basename(common.micro()).encode() + root.encode()).hexdigest()[:12]
    disk = os.path.join(guest.CACHE, f'bench-disk-{key}.img')
    with guest.locked('bench-disk'):
        if not os.path.exists(disk):
            make_inputs(root)
            guest.ext4_tree(disk, 640 << 20, root)
    return root, disk


def in_guest(line):
    """The shell line that runs one in a guest whose /data is the tree, and prints its time and the sum of what it printed."""
    return f"chroot /data /bin/micro --time /bin/sh -c '{line} >/tmp/out' && md5sum /data/tmp/out"


def natively(root, line):
    """The same on the host: in a mount name space of its own, so that nothing is left behind."""
    flags = '-m' if os.geteuid() == 0 else '-Urm'
    inner = f"mount --bind /dev {root}/dev && mount -t tmpfs t {root}/tmp && chroot {root} /bin/micro --time /bin/sh -c '{line} >/tmp/out' && md5sum {root}/tmp/out"
    return f'unshare {flags} /bin/sh -c "{inner}"'
