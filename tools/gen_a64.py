#!/usr/bin/env python3
"""Turns src/guest/arm64/insn.def into the decoder's tables.

Output (a header for decode.c and insn.h): the enum of operations (one per name before the first '_'), for every row its
mask, value and operation, and a decision: bits 31..21 choose a list of candidate rows; where it is long, bits 15..10
choose again. Within a list the first row that matches wins, as in the file.
Usage: gen_a64.py insn.def out.h enum|tables"""
import re
import sys

REG = re.compile(r"R[a-z]2?$")
LONG = 6


def parse(path):
    rows = []
    for line in open(path):
        m = re.match(r'I\((\w+), "([^"]*)", "([^"]*)",', line)
        if not m:
            continue
        bits = ""
        for word in m.group(3).split():
            if re.fullmatch(r"[01]+", word):
                bits += word
            elif ":" in word:
                bits += "x" * int(word.split(":")[1])
            else:
                bits += "x" * (5 if REG.match(word) else 1)
        if len(bits) != 32:
            sys.exit(f"{path}: {m.group(1)}: {len(bits)} bits")
        mask = int("".join("0" if b == "x" else "1" for b in bits), 2)
        value = int(bits.replace("x", "0"), 2)
        rows.append((m.group(1), mask, value))
    names = [r[0] for r in rows]
    if len(set(names)) != len(names):
        sys.exit(f"{path}: a row's name is used twice: {[n for n in names if names.count(n) > 1]}")
    return rows


def kinds(rows):
    seen = []
    for name, _, _ in rows:
        k = name.split("_")[0]
        if k not in seen:
            seen.append(k)
    return seen


def decision(rows):
    lists, where, first, second = [], {}, [], []

    def put(cand):
        key = tuple(cand)
        if key not in where:
            where[key] = len(lists)
            lists.extend(list(key) + [0xffff])
        return where[key]

    for top in range(2048):
        v, m = top << 21, 0x7ff << 21
        cand = [i for i, (_, mask, val) in enumerate(rows) if not (val ^ v) & mask & m]
        if len(cand) <= LONG:
            first.append(put(cand))
            continue
        first.append(0x8000 | len(second) // 64)
        for low in range(64):
            second.append(put([i for i in cand if not (rows[i][2] ^ low << 10) & rows[i][1] & 0xfc00]))
    return lists, first, second


def table(name, vals, ctype="uint16_t"):
    body = ""
    for i in range(0, len(vals), 12):
        body += "    " + ", ".join(f"{v:#x}" for v in vals[i:i + 12]) + ",\n"
    return f"static const {ctype} {name}[] = {{\n{body}}};\n"


def main():
    rows = parse(sys.argv[1])
    with open(sys.argv[2], "w") as out:
        out.write("/* Generated from insn.def by tools/gen_a64.py. */\n")
        if sys.argv[3] == "enum":
            out.write("enum a64_kind {\n" + "".join(f"    A64_{k},\n" for k in kinds(rows)) + "    A64_NR_KIND\n};\n")
            out.write(f"enum {{ A64_NR_ROW = {len(rows)} }};\n")
            return
        lists, first, second = decision(rows)
        out.write(table("row_mask", [r[1] for r in rows], "uint32_t"))
        out.write(table("row_value", [r[2] for r in rows], "uint32_t"))
        out.write("static const uint16_t row_kind[] = {\n" +
                  "".join(f"    A64_{r[0].split('_')[0]},\n" for r in rows) + "};\n")
        out.write(table("cand_list", lists) + table("by_top", first) + table("by_low", second or [0]))


main()
