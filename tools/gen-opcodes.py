#!/usr/bin/env python3
"""Turns src/cpu/opcodes.tab into C: the enum of operations, the form rows, and the decoding trees.

usage: gen-opcodes.py opcodes.tab opcodes_gen.h opcodes_gen.c

The table's syntax is described at its head. Every line becomes one or more rows; rows that share an
encoding, map and opcode form a tree that selects on as few properties as needed. Where several rows
match, the one with the most conditions wins; two equally specific ones are an error.
"""

import re
import sys

FLAG_BITS = {'o': 'FLAG_OF', 's': 'FLAG_SF', 'z': 'FLAG_ZF', 'a': 'FLAG_AF', 'p': 'FLAG_PF',
             'c': 'FLAG_CF', 'd': 'FLAG_DF'}
MAPS = {'0f': 1, '0f38': 2, '0f3a': 3}
PREFIXES = {'np': {0}, '66': {1}, 'f3': {2}, 'f2': {3}, 'nf': {0, 1}}
SELECTORS = [('mode', 2), ('pp', 4), ('mod', 2), ('reg', 8), ('rm', 8), ('opsize', 2), ('w', 2),
             ('l', 3), ('rexb', 2)]
# Flags that each pair of conditions reads: O B Z BE S P L LE.
CONDITION_FLAGS = ['o', 'c', 'z', 'zc', 's', 'p', 'so', 'zso']

PLACES = {'E': 'E', 'M': 'E', 'R': 'E', 'G': 'G', 'Z': 'Z', 'B': 'B', 'I': 'I', 'J': 'J', 'O': 'O',
          'A': 'A', 'C': 'C', 'D': 'D', 'V': 'V', 'W': 'W', 'U': 'W', 'H': 'H', 'L': 'L', 'P': 'P',
          'Q': 'Q', 'N': 'Q', 'K': 'K', 'KH': 'KH', 'KE': 'KE', 'KR': 'KE', 'T': 'KAAA'}
MODRM_PLACES = {'E', 'G', 'S', 'C', 'D', 'V', 'W', 'P', 'Q', 'K', 'KE', 'ST_RM'}
SIZES = {'b': '1', 'w': '2', 'd': '4', 'q': '8', 'o': '16', 't': '10', 'k': '32', '0': '0',
         'v': 'SIZE_V', 'z': 'SIZE_Z', 'y': 'SIZE_Y', 'p': 'SIZE_P', 's': 'SIZE_S', 'x': 'SIZE_X',
         'h': 'SIZE_H', 'f': 'SIZE_F', 'g': 'SIZE_G', 'u': 'SIZE_U', 'a': 'SIZE_A', 'm': 'SIZE_M'}
GPRS = {'AX': 0, 'CX': 1, 'DX': 2, 'BX': 3, 'SP': 4, 'BP': 5, 'SI': 6, 'DI': 7}
SEGMENTS = {'ES': 0, 'CS': 1, 'SS': 2, 'DS': 3, 'FS': 4, 'GS': 5}
FORM_WORDS = {'lock': 'LOCKABLE', 'branch': 'BRANCH', 'stack': 'STACK', 'stack32': 'STACK', 'mmx': 'MMX',
              'string': 'STRING', 'sys': 'SYSTEM', 'cond': 'COND', 'sse': 'SSE', 'x87': 'X87',
              'avx': 'AVX', 'aligned': 'ALIGNED', 'vsib': 'VSIB'}
KINDS = {'s': ('LEGACY', ''), 'v': ('VEX', 'V'), 'e': ('EVEX', 'V'), 'x': ('VEX', ''),
         'y': ('EVEX', '')}
ENCODINGS = ['LEGACY', 'VEX', 'EVEX']


class Operand:
    def __init__(self, text):
        self.text = text
        self.write = text[0] in '=+'
        self.read = text[0] != '='
        name = text.lstrip('=+')
        self.implicit = False
        self.reg = 0
        self.modonly = None
        self.parse(name)

    def parse(self, name):
        fixed = re.fullmatch(r'([vyzdqas]?)(AX|CX|DX|BX|SP|BP|SI|DI)', name)
        if name in ('AL', 'CL', 'AH'):
            self.set_implicit('GPR_HIGH' if name == 'AH' else 'GPR', '1', int(name == 'CL'))
        elif fixed:
            size = {'': '2', 's': 'SIZE_M', 'a': 'SIZE_A'}.get(fixed[1]) or SIZES[fixed[1]]
            self.set_implicit('GPR', size, GPRS[fixed[2]])
        elif name in SEGMENTS:
            self.set_implicit('SEG', '2', SEGMENTS[name])
        elif name in ('S0', 'S1'):
            self.set_implicit('ST', '10', int(name[1]))
        elif name == 'X0':
            self.set_implicit('VEC', '16', 0)
        elif name == 'Si':
            self.place, self.size = 'ST_RM', '10'
        elif name == 'Sw':
            self.place, self.size = 'S', '2'
        elif name == '1':
            self.place, self.size = 'ONE', '1'
        elif name == 'Is':
            self.place, self.size = 'IS', 'SIZE_V'
        elif name == 'Iz':
            self.place, self.size = 'IS', 'SIZE_V'
        elif name == 'I2b':
            self.place, self.size = 'I2', '1'
        elif name in ('C', 'D'):
            self.place, self.size = name, 'SIZE_M'
        else:
            code = re.fullmatch(r'(KH|KE|KR|[A-Z])([a-z0]?)', name)
            if not code or code[1] not in PLACES:
                raise ValueError(f'operand {name}')
            self.place = PLACES[code[1]]
            self.size = SIZES[code[2]] if code[2] else '8'
            if self.place in ('A', 'J'):
                self.size = 'SIZE_P' if self.place == 'A' else 'SIZE_V'
            if code[1] == 'M':
                self.modonly = 0
            elif code[1] in ('R', 'U', 'N', 'KR'):
                self.modonly = 1
        self.name = name

    def set_implicit(self, place, size, reg):
        self.place, self.size, self.reg, self.implicit = place, size, reg, True

    def c(self):
        flags = [w for w, on in (('OPERAND_READ', self.read), ('OPERAND_WRITE', self.write),
                                 ('OPERAND_IMPLICIT', self.implicit)) if on]
        return f'{{PLACE_{self.place}, {self.size}, {" | ".join(flags)}, {self.reg}}}'


class Row:
    """One form: what selects it (conditions) and what it says."""

    def __init__(self, line, name, operands, words, feature, encoding, opmap, opcode, cond):
        self.line = line
        self.op = name
        self.feature = feature
        self.encoding = encoding
        self.map = opmap
        self.opcode = opcode
        self.operands = operands
        self.words = set(words)
        self.cond = cond
        self.form = set()
        self.bits = set()
        self.flags = {'r': '', 'w': '', 'u': ''}
        self.disp_n = '0'
        self.element = 0
        self.build()

    def has(self, *places):
        return any(o.place in places for o in self.operands)

    def build(self):
        for word in list(self.words):
            if word in FORM_WORDS:
                self.form.add(FORM_WORDS[word])
            elif re.fullmatch(r'[rwu]=[oszapcd]+', word):
                self.flags[word[0]] = word[2:]
            elif re.fullmatch(r'n\d+', word):
                self.disp_n = word[1:]
            else:
                self.word(word)
        for o in self.operands:
            if o.modonly is not None and 'nomem' not in self.words:
                self.cond['mod'] = {o.modonly}
        if 'cond' in self.words:
            self.flags['r'] = CONDITION_FLAGS[self.opcode >> 1 & 7]
        self.derive()

    def word(self, word):
        simple = {'i64': ('mode', 0), 'o64': ('mode', 1), 'w0': ('w', 0), 'w1': ('w', 1),
                  'l0': ('l', 0), 'l1': ('l', 1), 'l2': ('l', 2), 'mem': ('mod', 0),
                  'reg': ('mod', 1), 'o1632': ('opsize', 0), 'o64w': ('opsize', 1),
                  'rexb0': ('rexb', 0)}
        bits = {'d64': 'D64', 'f64': 'F64', 'nomem': 'NOMEM', 'lig': 'LIG', 'b4': 'BCST4',
                'b8': 'BCST8', 'er': 'ROUNDING', 'sae': 'ROUNDING', 'km': 'MASK_MUST', 'io': 'MAX4',
                'b': 'BYTE'}
        if word in simple:
            key, value = simple[word]
            self.cond[key] = {value}
        elif word == 'l12':
            self.cond['l'] = {1, 2}
        elif word in bits:
            self.bits.add(bits[word])
        elif word == 'arith':
            self.flags['w'] = 'oszapc'
        elif word == 'logic':
            self.flags['w'], self.flags['u'] = 'oszapc', 'a'
        elif word in ('ew0', 'ew1'):
            if self.encoding == 'EVEX':
                self.cond['w'] = {int(word[2])}
        elif word == 'w16':
            self.operands[0].size = '2'
        elif word == 'msize2':
            self.operands[1].size = 'SIZE_2V'
        elif re.fullmatch(r'm[1248]', word):
            self.element = int(word[1])
        elif word not in ('ua', 'nok', 'noz', 'whole'):
            raise ValueError(f'attribute {word}')

    def derive(self):
        vector = self.has('V', 'W', 'H', 'L', 'VEC')
        mask = self.has('K', 'KH', 'KE')
        if self.map == 0 and 0xd8 <= self.opcode <= 0xdf and self.encoding == 'LEGACY':
            self.form.add('X87')
        if self.has('P', 'Q') or self.op in ('EMMS',):
            self.form.add('MMX')
        if self.encoding == 'LEGACY' and vector:
            self.form.add('SSE')
        if self.encoding == 'VEX' and vector:
            self.form.add('AVX')
        if self.encoding == 'EVEX' or mask:
            self.form.add('AVX512')
        if 'SSE' in self.form and 'ua' not in self.words and any(
                o.place in ('W', 'E') and o.size in ('SIZE_X', '16') for o in self.operands):
            self.form.add('ALIGNED')
        if self.encoding != 'EVEX':
            self.bits -= {'BCST4', 'BCST8', 'ROUNDING'}
            self.disp_n = '0'
            self.element = 0
        else:
            self.derive_evex()
        if (self.cond.get('reg') or self.has(*MODRM_PLACES) or 'mod' in self.cond):
            self.bits.add('MODRM')
        if self.has('B', 'H', 'KH'):
            self.bits.add('VVVV')
        if 'stack' in self.words and 'F64' not in self.bits:
            self.bits.add('D64')
        if self.cond.get('pp') == {1}:
            self.bits.add('66_MANDATORY')
        if self.cond.get('pp') in ({2}, {3}):
            self.bits.add('PP')
        if self.byte_form():
            self.bits.add('BYTE')
        if self.op in ('IN', 'OUT'):
            self.bits.add('MAX4')
        if self.op in ('INS', 'STOS', 'SCAS'):
            self.bits.add('STRING_DST')

    def derive_evex(self):
        if 'w' not in self.cond:
            if 'BCST4' in self.bits:
                self.cond['w'] = {0}
            elif 'BCST8' in self.bits:
                self.cond['w'] = {1}
        if 'nok' not in self.words and not any(o.place == 'KAAA' for o in self.operands):
            self.bits.add('MASKABLE')
            first = self.operands[0] if self.operands else None
            if first and first.place in ('V', 'W', 'H') and 'noz' not in self.words:
                self.bits.add('ZEROING')
        if any(o.place == 'KAAA' for o in self.operands):
            self.bits.add('MASKABLE')
        if 'MASK_MUST' in self.bits:
            self.bits.add('MASKABLE')
            self.bits.discard('ZEROING')
        if 'LIG' not in self.bits and self.cond.get('l') != {0}:
            self.form.add('VL')
        if 'MASKABLE' in self.bits and 'MASK_MUST' not in self.bits:
            self.derive_elements()

    def derive_elements(self):
        memory = [o.size for o in self.operands if o.place == 'W']
        if 'BCST4' in self.bits or ('LIG' in self.bits and memory == ['4']):
            self.element = 4
        elif 'BCST8' in self.bits or ('LIG' in self.bits and memory == ['8']):
            self.element = 8
        if 'whole' in self.words:
            self.form.add('WHOLE')
        first = self.operands[0]
        if first.place == 'W' and not self.element: # what a store leaves out must be known
            raise ValueError(f'{self.op} stores under a writemask: say m1, m2, m4 or m8')
        if 'BROADCAST' in self.op:
            self.bits.add('SPREAD')
        if 'COMPRESS' in self.op or 'EXPAND' in self.op:
            self.form.add('PACKED')

    def byte_form(self):
        sizes = [o.size for o in self.operands if o.place in ('E', 'G', 'Z', 'O', 'GPR')]
        return bool(sizes) and sizes[0] == '1' and not {'SIZE_V', 'SIZE_Y'} & set(sizes) and \
            not self.has('V', 'W', 'P', 'Q', 'K')

    def immediates(self):
        imm, imm2 = '0', '0'
        for o in self.operands:
            if o.place == 'I':
                imm, imm2 = {'Ib': '1', 'Iw': '2', 'Iv': 'SIZE_V'}[o.name], imm2
            elif o.place == 'IS':
                imm = '1' if o.name == 'Is' else 'SIZE_Z'
            elif o.place == 'I2':
                imm2 = '1'
            elif o.place == 'J':
                imm = '1' if o.name == 'Jb' else 'SIZE_Z'
            elif o.place == 'O':
                imm = 'SIZE_A'
            elif o.place == 'A':
                imm, imm2 = 'SIZE_Z', '2'
            elif o.place == 'L':
                imm = '1'
        return imm, imm2

    def c_flags(self, which):
        return ' | '.join(FLAG_BITS[f] for f in self.flags[which]) or '0'

    def c_form(self):
        form = ' | '.join('FORM_' + f for f in sorted(self.form)) or '0'
        undefined = self.c_flags('u')
        return (f'{{OP_{self.op}, FEATURE_{self.feature}, {form}, {self.c_flags("r")}, '
                f'{self.c_flags("w")}, {undefined}, {self.element}}}')

    def c_row(self):
        bits = ' | '.join('ROW_' + b for b in sorted(self.bits)) or '0'
        imm, imm2 = self.immediates()
        operands = ', '.join(o.c() for o in self.operands)
        return f'{{{bits}, {imm}, {imm2}, {self.disp_n}, {len(self.operands)}, {{{operands}}}}}'


def parse_encoding(text):
    kinds, _, rest = text.rpartition(':') if re.match(r'[svexy]+:', text) else ('s', '', text)
    if re.match(r'[svexy]+:', text):
        kinds, rest = text.split(':', 1)
    cond = {}
    opmap = 0
    parts = rest.split('.')
    last = parts.pop()
    if parts and parts[0] in PREFIXES:
        cond['pp'] = PREFIXES[parts.pop(0)]
    if parts:
        opmap = MAPS[parts.pop(0)]
    m = re.fullmatch(r'([0-9a-f]{2})(\+r|\+cc)?(?:/([0-7])(?::([0-7]))?)?', last)
    if not m or parts:
        raise ValueError(f'encoding {text}')
    if m[3]:
        cond['reg'] = {int(m[3])}
    if m[4]:
        cond['mod'] = {1}
        cond['rm'] = {int(m[4])}
    count = {None: 1, '+r': 8, '+cc': 16}[m[2]]
    return kinds, cond, opmap, int(m[1], 16), count


def operands_of(kind, texts):
    """Legacy forms of three-operand lines lose H and read their destination."""
    if kind == 's' and any(t.lstrip('=+').startswith('H') for t in texts):
        texts = [t for t in texts if not t.lstrip('=+').startswith('H')]
        texts[0] = '+' + texts[0].lstrip('=+')
    return [Operand(t) for t in texts]


def parse_line(line):
    left, _, right = line.partition('|')
    name, encoding, *texts = left.split()
    words = right.split()
    features = [w for w in words if re.fullmatch(r'[A-Z][A-Z0-9_/]+', w)]
    words = [w for w in words if w not in features]
    kinds, cond, opmap, opcode, count = parse_encoding(encoding)
    for i, kind in enumerate(kinds):
        encoding_name, letter = KINDS[kind]
        feature = (features[i] if i < len(features) else features[-1]) if features else 'NONE'
        by_length = feature.split('/')
        for length, f in enumerate(by_length):
            for n in range(count):
                c = {k: set(v) for k, v in cond.items()}
                if len(by_length) > 1:
                    c['l'] = {0} if length == 0 else {1}
                if encoding_name != 'LEGACY' and 'pp' not in c:
                    raise ValueError('VEX without pp')
                row = Row(line, letter + name, operands_of(kind, texts), words, f, encoding_name,
                          opmap, opcode + n, c)
                if encoding_name == 'LEGACY':
                    row.cond.pop('w', None)
                    row.cond.pop('l', None)
                yield row


class Trees:
    def __init__(self):
        self.nodes = []
        self.children = []
        self.known = {}

    def build(self, rows, depth=0):
        """Returns the entry for a set of (index, row)."""
        if not rows:
            return 0
        for at in range(depth, len(SELECTORS)):
            key, ways = SELECTORS[at]
            if any(key in r.cond for _, r in rows):
                entries = tuple(
                    self.build([(i, r) for i, r in rows if v in r.cond.get(key, {v})], at + 1)
                    for v in range(ways))
                return self.node(at, entries)
        best = max(len(r.cond) for _, r in rows)
        winners = [(i, r) for i, r in rows if len(r.cond) == best]
        if len(winners) > 1:
            raise ValueError('ambiguous: ' + ' / '.join(r.line for _, r in winners))
        return 1 + winners[0][0]

    def node(self, select, entries):
        key = (select, entries)
        if len(set(entries)) == 1 and entries[0] & 0x8000 == 0 and entries[0] == 0:
            return 0
        if key not in self.known:
            self.known[key] = 0x8000 | len(self.nodes)
            self.nodes.append((select, len(self.children)))
            self.children.extend(entries)
        return self.known[key]


def share_forms(rows):
    """Rows that differ only in the opcode's low bits are stored once."""
    forms, index = [], {}
    for row in rows:
        text = (row.c_form(), row.c_row())
        if text not in index:
            index[text] = len(forms)
            forms.append(text)
        row.index = index[text]
    return forms


def read_table(path):
    rows = []
    for number, line in enumerate(open(path), 1):
        line = line.split('#')[0].strip()
        if not line:
            continue
        try:
            rows.extend(parse_line(line))
        except (ValueError, KeyError, IndexError) as e:
            sys.exit(f'{path}:{number}: {line}: {e!r}')
    return rows


def write_header(path, ops):
    with open(path, 'w') as f:
        f.write('// Generated by tools/gen-opcodes.py from src/cpu/opcodes.tab.\n#pragma once\n\n'
                'enum x86_op {\n    OP_NONE,\n')
        f.writelines(f'    OP_{op},\n' for op in ops)
        f.write('    OP_COUNT\n};\n')


def write_trees(f, rows):
    trees = Trees()
    roots = {}
    for row in rows:
        table = roots.setdefault((row.encoding, row.map), [[] for _ in range(256)])
        table[row.opcode].append((row.index, row))
    names = {}
    for (encoding, opmap), table in sorted(roots.items()):
        names[encoding, opmap] = name = f'root_{encoding.lower()}_{opmap}'
        f.write(f'static const uint16_t {name}[256] = {{\n')
        entries = [trees.build(r) for r in table]
        for i in range(0, 256, 16):
            f.write('    ' + ', '.join(f'{e:#x}' for e in entries[i:i + 16]) + ',\n')
        f.write('};\n')
    f.write('const uint16_t *const tree_roots[3][4] = {\n')
    for e, encoding in enumerate(ENCODINGS):
        line = ', '.join(names.get((encoding, m), 'NULL') for m in range(4))
        f.write(f'    {{{line}}},\n')
    f.write('};\nconst struct tree_node tree_nodes[] = {\n')
    f.writelines(f'    {{{s}, {first}}},\n' for s, first in trees.nodes)
    f.write('};\nconst uint16_t tree_children[] = {\n')
    for i in range(0, len(trees.children), 16):
        f.write('    ' + ', '.join(f'{e:#x}' for e in trees.children[i:i + 16]) + ',\n')
    f.write('};\n')


def write_source(path, rows, ops):
    forms = share_forms(rows)
    with open(path, 'w') as f:
        f.write('// Generated by tools/gen-opcodes.py from src/cpu/opcodes.tab.\n'
                '#include "cpu/insn_impl.h"\n\n#include <stddef.h>\n\n')
        f.write('const struct insn_form insn_forms[] = {\n')
        f.writelines(f'    {form},\n' for form, _ in forms)
        f.write('};\nconst struct insn_row insn_rows[] = {\n')
        f.writelines(f'    {row},\n' for _, row in forms)
        f.write('};\nconst char *const insn_names[] = {\n    "(none)",\n')
        f.writelines(f'    "{op.lower()}",\n' for op in ops)
        f.write('};\n')
        write_trees(f, rows)


def main():
    table, header, source = sys.argv[1:]
    rows = read_table(table)
    ops = sorted({r.op for r in rows})
    write_header(header, ops)
    try:
        write_source(source, rows, ops)
    except ValueError as e:
        sys.exit(f'{table}: {e}')


if __name__ == '__main__':
    main()
