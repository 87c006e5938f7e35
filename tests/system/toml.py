#!/usr/bin/env python3
"""toml.py TOML_JSON: our TOML reader and writer against Python's, on written and random documents. Prints TAP."""
import json
import os
import random
import subprocess
import sys

import tap

try:
    import tomllib
except ImportError:
    print("1..0 # SKIP this Python has no tomllib")
    sys.exit(0)

PROGRAM = os.path.abspath(sys.argv[1])
GOOD = r'''
# comment
a = 1 # another
"quoted key" = 'lit\eral'
dotted.key . part = true
dotted.other = -7
num = [0, +1, -0, 1_000, 0xDEAD_beef, 0o17, 0b1010, 1.5, -2e3, 6.02e+23, 5e-1, 1_0.2_5]
text = "tab\t quote\" back\\ \u00e9 \U0001F600 \b\f\r\n"
lines = """
one
two \
    joined ""quotes"" """
more = """"quoted""""
literal = """a\\b"""
raw = \'\'\'
C:\x 'it''s' \'\'\'
empty = ""
nothing = []
nested = [[1, 2], ["a", [true]],
  # inside
  {x = 1, y.z = "q"},
]
point = { x = 1, "y y" = {}, z = [{}] }
[table]
k = "v"
[table.sub]
k = 2
[x.y.z.w]
[x]
own = 1
[[list]]
n = 1
[[list]]
n = 2
[[list.inner]]
m = 3
[list.inner.deep]
d = 4
[fruit]
apple.color = "red"
apple.taste.sweet = true
[fruit.apple.texture]
smooth = true
'''.replace("\\'", "'")
BAD = ["a", "a =", "a = 1 b = 2", "= 1", "a = 01", "a = 1_", "a = _1", "a = 1__0", "a = 1.", "a = .5", "a = 1e", "a = 0x", "a = 0xg",
       "a = +0x1", "a = \"", "a = \"x\ny\"", "a = '", "a = \"\\q\"", "a = \"\\ud800\"", "a = \"\\u12\"", "a = [1", "a = [1 2]", "a = [,]",
       "a = {x = 1,}", "a = {x = 1\n}", "a = {", "a = 1\na = 2", "[a]\n[a]", "a = 1\n[a]", "a = 1\na.b = 2", "[a]\nb = 1\n[a.b]",
       "[a", "[]", "[a.]", "[[a]", "[[a]]\n[a]", "[a]\n[[a]]", "a = []\n[[a]]", "a = {}\n[a.b]", "a = {b = 1}\na.c = 2", "a.b = 1\n[a]",
       "[a.b]\n[a]\nb.c = 1", "[[a.b]]\n[a]\nb.c = 1", "a = tru", "a = True", "a = nan x", "a = \x01", "# \x01", "a = \"\x7f\"", "a\n= 1", "\"\"\"k\"\"\" = 1",
       "a = \"\"\"", "a = 1 # \r x", "[ a . ]", "a.b = 1\na.b.c = 2", "a = {b.c = 1, b = 2}", "x = [1]\nx.y = 2"]


def ours(text, *options):
    done = subprocess.run([PROGRAM, *options], input=text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text,
                          capture_output=True, timeout=60)
    assert done.returncode in (0, 1), (text, done.returncode, done.stderr)
    return done.stdout.decode() if done.returncode == 0 else None


def theirs(text):
    try:
        return tomllib.loads(text.decode() if isinstance(text, bytes) else text)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError):
        return None


def what_is_right_is_read_as_python_reads_it():
    for text in (GOOD, "", "\n\n", "a=1", "a=1\r\nb=2\r\n[c]\r\nd='''\r\nx\r\n'''", "\t[ a . 'b' ]\n"):
        assert json.loads(ours(text)) == theirs(text), (text, ours(text), theirs(text))


def what_is_wrong_is_refused_with_its_line():
    for text in BAD:
        assert theirs(text) is None, f"python takes {text!r}"
        assert ours(text) is None, f"taken: {text!r} as {ours(text)}"
    done = subprocess.run([PROGRAM], input=b"a = 1\n\nb = oops\n", capture_output=True, timeout=60)
    assert b"line 3" in done.stderr, done.stderr


def what_no_definition_has_is_refused():
    for text in ("a = inf", "a = nan", "a = 1979-05-27", "a = 07:32:00", "a = 1979-05-27T07:32:00Z", "a = 9223372036854775808", "a = 1e999",
                 "a = \"\\u0000\"", "a = " + "[" * 40 + "]" * 40, ".".join("a" * 60) + " = 1", "a = [" + "1," * 30000 + "]"):
        assert ours(text) is None, text[:40]


def random_value(rng, depth):
    kind = rng.randrange(8 if depth else 5)
    if kind == 0:
        return rng.choice([0, -1, 1 << 62, rng.randrange(-1000, 1000)])
    if kind == 1:
        return rng.random() * 10 ** rng.randrange(-5, 12)
    if kind == 2:
        return rng.random() < 0.5
    if kind <= 4:
        return "".join(rng.choice("ab \"'\\\n\t\r\x01\x7f#=[]{}é😀.") for _ in range(rng.randrange(12)))
    if kind == 5:
        return [random_value(rng, depth - 1) for _ in range(rng.randrange(4))]
    return {random_value(rng, 0) if rng.random() < 0 else rng.choice(["a", "b c", "", "é", "x.y", "-", "k\"", "n\n"]): random_value(rng, depth - 1)
            for _ in range(rng.randrange(4))}


def what_is_written_is_read_again_by_both():
    rng = random.Random(1)
    for _ in range(150):
        value = {f"k{i}": random_value(rng, 3) for i in range(4)}
        text = "\n".join(f"k{i} = {as_toml(value[f'k{i}'])}" for i in range(4))
        assert theirs(text) == value, text
        assert json.loads(ours(text)) == value, (text, ours(text))
        again = ours(text, "--toml")
        assert same(theirs(again), value) and same(json.loads(ours(again)), value), again


def same(a, b):
    if isinstance(a, float) and isinstance(b, float):
        return abs(a - b) <= 1e-12 * abs(b)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b))
    return type(a) is type(b) and a == b


def as_toml(value):
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value).replace("\x7f", "\\u007f") if not any(ord(c) > 0xffff for c in value) else \
            '"' + "".join(c if ord(c) > 0xffff else json.dumps(c)[1:-1].replace("\x7f", "\\u007f") for c in value) + '"'
    if isinstance(value, list):
        return "[" + ", ".join(map(as_toml, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{as_toml(k)} = {as_toml(v)}" for k, v in value.items()) + "}"
    return repr(value)


def changed_documents_are_judged_as_python_judges_them():
    """What both take must mean the same; what only Python takes is one of the things that are not modelled."""
    rng = random.Random(int(os.environ.get("SEED", "1")))
    for _ in range(400):
        text = list(GOOD)
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(len(text))
            text[at:at + rng.randrange(3)] = rng.choice(["", "[", "]", "{", "}", "\"", "'", "\n", ".", "=", ",", "a", "1", "_", "\\", "#"])
        text = "".join(text)
        mine, python = ours(text), theirs(text)
        if mine is None:
            continue
        assert python is not None, f"only we take {text!r}"
        assert json.loads(mine) == python, (text, mine, python)


CASES = [what_is_right_is_read_as_python_reads_it, what_is_wrong_is_refused_with_its_line, what_no_definition_has_is_refused,
         what_is_written_is_read_again_by_both, changed_documents_are_judged_as_python_judges_them]


if __name__ == "__main__":
    sys.exit(tap.run(CASES))
