// A cage's area, from its address on; what is between and behind these parts is not mapped. Shared
// by C and the assembly that lives in it.
#pragma once

#define CAGE_TEXT 0x0        // one page, read and execute
#define CAGE_COMMANDS 0x1000 // read-only to the cage: a count, then from 64 bytes on commands
#define CAGE_COMMANDS_SIZE 0x7000
#define CAGE_CPUS 0x8000     // likewise: a word that says whether the runner is to move, and at
#define CAGE_CPUS_SET 0x8040 // 64 bytes on where to
#define CAGE_CPUS_BYTES 128
#define CAGE_WORDS 0x9000 // read and write, from here on: struct cage_words
#define CAGE_STACK 0xa000 // the signal stack
#define CAGE_STACK_SIZE 0x10000
#define CAGE_USED 0x1a000

#define CAGE_COMMAND_BYTES 48

// Where parts of struct cage_words lie.
#define CAGE_FS_BASE (CAGE_WORDS + 0)
#define CAGE_GS_BASE (CAGE_WORDS + 8)
#define CAGE_SIGNAL_STACK (CAGE_WORDS + 16)
#define CAGE_SIGNAL_MASK (CAGE_WORDS + 40)
#define CAGE_MAPPER_FILTER (CAGE_WORDS + 48)
#define CAGE_RUNNER_FILTER (CAGE_WORDS + 64)
#define CAGE_SELECTORS (CAGE_WORDS + 80)
#define CAGE_FLAGS (CAGE_WORDS + 88)

#define CAGE_END_OF_SPACE 0x7ffffffff000 // of a process, with four levels of page tables
#define CAGE_RAM_FD 0                    // in the cage
