#!/usr/bin/env python3
"""Turns schema/*.json into C (types, marshalling, argument checks, introspection) and the reference page.

A schema file is a row of JSON objects, each with a comment block above it: "## name: what it is", "# @arg: text",
"# -> request   <- reply" as an example. Kinds: command, event, struct, union, enum. A member named "*x" may be absent;
["T"] is an array. "open": true lets a command take further members (it hands them on). "via": "blk" sends a command with its
checked arguments as they are to qmp_via_blk(m, NAME, args, ret, errp)."""
import argparse
import json
import re
import sys

BUILTIN = {"str": "string", "int": "int", "uint64": "int", "size": "int", "number": "number", "bool": "boolean",
           "any": "value", "null": "null"}


class Item:
    def __init__(self, kind, name, body, doc, where):
        self.kind, self.name, self.body, self.doc, self.where = kind, name, body, doc, where


def parse(path):
    items, doc, text = [], [], ""
    for nr, line in enumerate(open(path, encoding="utf-8"), 1):
        if line.startswith("#") and not text:
            if line.startswith("##"):
                doc = []
            doc.append(line.lstrip("#").strip())
            continue
        if not line.strip() and not text:
            doc = []
            continue
        text += line
        try:
            body = json.loads(text)
        except json.JSONDecodeError:
            continue
        kind = next((k for k in ("command", "event", "struct", "union", "enum") if k in body), None)
        if not kind:
            sys.exit(f"{path}:{nr}: no kind in {text.strip()[:60]}")
        items.append(Item(kind, body[kind], body, doc, f"{path}:{nr}"))
        text, doc = "", []
    if text.strip():
        sys.exit(f"{path}: unfinished object: {text.strip()[:60]}")
    return items


def check(items):
    types = {i.name: i for i in items if i.kind in ("struct", "union", "enum")}

    def known(t, where):
        if isinstance(t, list):
            t = t[0]
        if t not in BUILTIN and t not in types:
            sys.exit(f"{where}: unknown type {t}")
    for i in items:
        for t in list(members(i.body.get("data")).values()) + list(members(i.body.get("base")).values()):
            known(t, i.where)
        if "returns" in i.body:
            known(i.body["returns"], i.where)
    return types


def members(data):
    """{"x": type} without the optional mark."""
    return {k.lstrip("*"): v for k, v in (data or {}).items()} if isinstance(data, dict) else {}


def cname(s):
    return re.sub(r"[^A-Za-z0-9]", "_", s)


def cstr(s):
    return json.dumps(s)


def tref(t):
    return f"&qmp_t_arr_{cname(t[0])}" if isinstance(t, list) else f"&qmp_t_{cname(t)}"


def arg_decl(name, t, opt):
    n = cname(name)
    if t == "bool":
        return ([f"    bool has_{n};"] if opt else []) + [f"    bool {n};"]
    if t == "int":
        return ([f"    bool has_{n};"] if opt else []) + [f"    int64_t {n};"]
    if t in ("uint64", "size"):
        return ([f"    bool has_{n};"] if opt else []) + [f"    uint64_t {n};"]
    if t == "number":
        return ([f"    bool has_{n};"] if opt else []) + [f"    double {n};"]
    if isinstance(t, list) or t == "any" or not is_text(t):
        return [f"    struct json_object *{n}; /* borrowed{', NULL when absent' if opt else ''} */"]
    return [f"    const char *{n}; /* borrowed{', NULL when absent' if opt else ''} */"]


TYPES = {}


def is_text(t):
    return t == "str" or (t in TYPES and TYPES[t].kind == "enum")


def arg_load(name, t, opt):
    n, key = cname(name), cstr(name)
    get = f"json_get(args, {key})"
    has = [f"    a.has_{n} = {get} != NULL;"] if opt and (t in ("bool", "int", "uint64", "size", "number")) else []
    if t == "bool":
        return has + [f"    a.{n} = json_object_get_boolean({get});"]
    if t == "int":
        return has + [f"    a.{n} = json_object_get_int64({get});"]
    if t in ("uint64", "size"):
        return has + [f"    a.{n} = json_object_get_uint64({get});"]
    if t == "number":
        return has + [f"    a.{n} = json_object_get_double({get});"]
    if isinstance(t, list) or t == "any" or not is_text(t):
        return [f"    a.{n} = {get};"]
    return [f"    a.{n} = json_get_str(args, {key});"]


def emit_header(items, out):
    w = out.write
    w("/* Made by tools/qmpgen.py from schema/: do not edit. */\n#ifndef QMP_GEN_H\n#define QMP_GEN_H\n\n"
      '#include "mon/qmp_type.h"\n\nstruct mon;\n')
    via = set()
    for i in items:
        if i.kind != "command":
            continue
        data, n = i.body.get("data") or {}, cname(i.name)
        if i.body.get("via"):
            via.add(i.body["via"])
            continue
        if data and not i.body.get("open"):
            w(f"struct qmp_args_{n} {{\n")
            for k, t in data.items():
                w("\n".join(arg_decl(k.lstrip("*"), t, k.startswith("*"))) + "\n")
            w("};\n")
            arg = f"const struct qmp_args_{n} *a, "
        else:
            arg = "struct json_object *args, " if i.body.get("open") else ""
        ret = "struct json_object **ret, " if "returns" in i.body else ""
        w(f"bool qmp_{n}(struct mon *m, {arg}{ret}struct err **errp);\n")
    for v in sorted(via):
        w(f"bool qmp_via_{v}(struct mon *m, const char *name, struct json_object *args, struct json_object **ret, "
          "struct err **errp);\n")
    w("\n#endif\n")


def emit_type(name, kind, w, **f):
    parts = [f".name = {cstr(name)}", f".kind = {kind}"] + [f".{k} = {v}" for k, v in f.items() if v]
    w(f"static const struct qmp_type qmp_t_{cname(name)} = {{{', '.join(parts)}}};\n")


def emit_members(sym, data, w):
    w(f"static const struct qmp_member {sym}[] = {{\n")
    for k, t in data.items():
        w(f"    {{{cstr(k.lstrip('*'))}, {tref(t)}, {'true' if k.startswith('*') else 'false'}}},\n")
    w("    {NULL, NULL, false}};\n")


def all_arrays(items):
    found = set()
    for i in items:
        for t in list(members(i.body.get("data")).values()) + list(members(i.body.get("base")).values()) + [i.body.get("returns")]:
            if isinstance(t, list):
                found.add(t[0])
    return sorted(found)


def emit_source(items, out):
    w = out.write
    w("/* Made by tools/qmpgen.py from schema/: do not edit. */\n" '#include "mon/qmp_gen.h"\n#include "base/json.h"\n\n')
    for b, k in (("str", "QMP_STR"), ("int", "QMP_INT"), ("uint64", "QMP_UINT"), ("size", "QMP_UINT"), ("number", "QMP_NUMBER"),
                 ("bool", "QMP_BOOL"), ("any", "QMP_ANY"), ("null", "QMP_NULL")):
        w(f"static const struct qmp_type qmp_t_{b} __attribute__((unused)) = {{.name = \"{b}\", .kind = {k}}};\n")
    for i in items:
        if i.kind in ("struct", "union", "enum"):
            w(f"static const struct qmp_type qmp_t_{cname(i.name)} __attribute__((unused));\n")
    for t in all_arrays(items):
        w(f"static const struct qmp_type qmp_t_arr_{cname(t)} __attribute__((unused)) = {{.name = \"array\", .kind = QMP_ARRAY, "
          f".elem = {tref(t)}}};\n")
    for i in items:
        n = cname(i.name)
        if i.kind == "enum":
            w(f"static const char *const qmp_v_{n}[] = {{{', '.join(cstr(v) for v in i.body['values'])}, NULL}};\n")
            emit_type(i.name, "QMP_ENUM", w, values=f"qmp_v_{n}")
        elif i.kind == "struct":
            emit_members(f"qmp_m_{n}", i.body["data"], w)
            emit_type(i.name, "QMP_OBJECT", w, members=f"qmp_m_{n}")
        elif i.kind == "union":
            emit_members(f"qmp_m_{n}", i.body["base"], w)
            w(f"static const struct qmp_variant qmp_u_{n}[] = {{\n")
            for v, t in i.body["data"].items():
                w(f"    {{{cstr(v)}, {tref(t)}}},\n")
            w("    {NULL, NULL}};\n")
            emit_type(i.name, "QMP_OBJECT", w, members=f"qmp_m_{n}", tag=cstr(i.body["discriminator"]), variants=f"qmp_u_{n}")
    for i in items:
        if i.kind == "command":
            emit_command(i, w)
    w("const struct qmp_command qmp_commands[] = {\n")
    for i in sorted((i for i in items if i.kind == "command"), key=lambda i: i.name):
        n = cname(i.name)
        ret = tref(i.body["returns"]) if "returns" in i.body else "NULL"
        w(f"    {{{cstr(i.name)}, &qmp_a_{n}, {ret}, call_{n}, {cstr(i.body['via']) if i.body.get('via') else 'NULL'}}},\n")
    w("    {NULL, NULL, NULL, NULL, NULL}};\n")
    w("const char *const qmp_events[] = {" + ", ".join(cstr(i.name) for i in sorted(items, key=lambda i: i.name) if i.kind == "event") +
      ", NULL};\n")
    text = json.dumps(introspection(items), separators=(",", ":"))
    w("const char qmp_schema_text[] =\n")
    for k in range(0, len(text), 100):
        w("    " + cstr(text[k:k + 100]) + "\n")
    w("    ;\n")


def emit_command(i, w):
    n, data = cname(i.name), i.body.get("data") or {}
    emit_members(f"qmp_am_{n}", data, w)
    w(f"static const struct qmp_type qmp_a_{n} = {{.name = {cstr(i.name)}, .kind = QMP_OBJECT, .members = qmp_am_{n}"
      f"{', .open = true' if i.body.get('open') else ''}}};\n")
    w(f"static bool call_{n}(struct mon *m, struct json_object *args, struct json_object **ret, struct err **errp)\n{{\n")
    ret = "ret, " if "returns" in i.body else ""
    if i.body.get("via"):
        w(f"    return qmp_via_{i.body['via']}(m, {cstr(i.name)}, args, ret, errp);\n}}\n")
    elif i.body.get("open"):
        w(f"    return qmp_{n}(m, args, {ret}errp);\n}}\n")
    elif data:
        w(f"    struct qmp_args_{n} a;\n\n")
        for k, t in data.items():
            w("\n".join(arg_load(k.lstrip("*"), t, k.startswith("*"))) + "\n")
        w(f"    return qmp_{n}(m, &a, {ret}errp);\n}}\n")
    else:
        w(f"    return qmp_{n}(m, {ret}errp);\n}}\n")


def introspection(items):
    out, arrays = [], {}

    def ref(t):
        if isinstance(t, list):
            arrays[f"[{ref(t[0])}]"] = ref(t[0])
            return f"[{ref(t[0])}]"
        return "int" if BUILTIN.get(t) == "int" else t

    def mem(data):
        return [{"name": k.lstrip("*"), "type": ref(t), **({"default": None} if k.startswith("*") else {})} for k, t in data.items()]
    for i in items:
        b = i.body
        if i.kind == "enum":
            out.append({"name": i.name, "meta-type": "enum", "members": [{"name": v} for v in b["values"]], "values": b["values"]})
        elif i.kind == "struct":
            out.append({"name": i.name, "meta-type": "object", "members": mem(b["data"])})
        elif i.kind == "union":
            out.append({"name": i.name, "meta-type": "object", "members": mem(b["base"]), "tag": b["discriminator"],
                        "variants": [{"case": v, "type": ref(t)} for v, t in b["data"].items()]})
        else:
            arg = "q_empty"
            if b.get("data"):
                arg = f"q_obj_{i.name}-arg"
                out.append({"name": arg, "meta-type": "object", "members": mem(b["data"])})
            e = {"name": i.name, "meta-type": i.kind, "arg-type": arg}
            if i.kind == "command":
                e.update({"ret-type": ref(b["returns"]) if "returns" in b else "q_empty", "allow-oob": False})
                if b.get("features"):
                    e["features"] = b["features"]
            out.append(e)
    out.append({"name": "q_empty", "meta-type": "object", "members": []})
    out += [{"name": n, "meta-type": "array", "element-type": e} for n, e in arrays.items()]
    for n, j in (("str", "string"), ("int", "int"), ("number", "number"), ("bool", "boolean"), ("any", "value"), ("null", "null")):
        out.append({"name": n, "meta-type": "builtin", "json-type": j})
    return out


def show(t):
    return f"[{show(t[0])}]" if isinstance(t, list) else f"[`{t}`](#{t.lower()})" if t in TYPES else f"`{t}`"


def emit_doc(items, out):
    w = out.write
    w("# QMP reference\n\nMade by `tools/qmpgen.py` from `schema/`; change it there. A session: the server greets with `{\"QMP\": ...}`, "
      "the client answers `{\"execute\": \"qmp_capabilities\"}`, then sends commands `{\"execute\": NAME, \"arguments\": {...}, "
      "\"id\": ANY}` and reads `{\"return\": ..., \"id\": ANY}` or `{\"error\": {\"class\": ..., \"desc\": ...}, \"id\": ANY}`, with "
      "events `{\"event\": NAME, \"data\": {...}, \"timestamp\": {...}}` between them.\n")
    for kind, title in (("command", "Commands"), ("event", "Events"), ("struct", "Types")):
        w(f"\n## {title}\n")
        kinds = ("struct", "union", "enum") if kind == "struct" else (kind,)
        for i in sorted((i for i in items if i.kind in kinds), key=lambda i: i.name):
            w(f"\n### {i.name}\n\n")
            text = [re.sub(r"^[\w-]+:\s*", "", d) if n == 0 else d for n, d in enumerate(i.doc)]
            notes = dict(re.match(r"@([\w-]+):\s*(.*)", d).groups() for d in text if d.startswith("@"))
            w("\n".join(d for d in text if d and not d.startswith(("@", "->"))) + "\n")
            if i.kind == "enum":
                w("\nValues: " + ", ".join(f"`{v}`" for v in i.body["values"]) + "\n")
            data = {**(i.body.get("base") or {}), **(i.body.get("data") or {})} if i.kind != "union" else i.body["base"]
            if data and i.kind != "enum":
                w("\n| member | type | |\n|---|---|---|\n")
                for k, t in data.items():
                    n = k.lstrip("*")
                    w(f"| `{n}`{' (optional)' if k.startswith('*') else ''} | {show(t)} | {notes.get(n, '')} |\n")
            if i.body.get("open"):
                w("\nFurther members are handed on.\n")
            if i.kind == "union":
                w(f"\nBy `{i.body['discriminator']}`: " + ", ".join(f"`{v}` {show(t)}" for v, t in i.body["data"].items()) + "\n")
            if "returns" in i.body:
                w(f"\nReturns {show(i.body['returns'])}\n")
            for d in text:
                if d.startswith("->"):
                    w("\n```\n" + d.replace("   <-", "\n<-") + "\n```\n")


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--header")
    p.add_argument("--source")
    p.add_argument("--doc")
    p.add_argument("schema", nargs="+")
    a = p.parse_args()
    items = [i for f in a.schema for i in parse(f)]
    TYPES.update(check(items))
    for path, fn in ((a.header, emit_header), (a.source, emit_source), (a.doc, emit_doc)):
        if path:
            with open(path, "w", encoding="utf-8") as out:
                fn(items, out)


main()
