#!/usr/bin/env python3
"""bin2c.py IN NAME OUT: the bytes of IN as a C array `NAME` with its length `NAME_len`."""
import sys

path, name, out = sys.argv[1:]
data = open(path, 'rb').read()
with open(out, 'w') as f:
    f.write('/* Generated. */\n#include "board/x86/rom/rom.h"\nconst unsigned char %s[] = {\n' % name)
    for i in range(0, len(data), 16):
        f.write('    ' + ' '.join('0x%02x,' % b for b in data[i:i + 16]) + '\n')
    f.write('};\nconst unsigned %s_len = sizeof %s;\n' % (name, name))
