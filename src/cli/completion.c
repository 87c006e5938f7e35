// berth completion: what shells need to complete berth's words, made from the table of commands and
// from the options that their help names, so that it cannot fall behind. Names of VMs and images
// are asked for while completing (berth completion --names).
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/manager.h"

const char completion_help[] =
    "usage: berth completion bash|zsh|fish\n"
    "\n"
    "Prints what the shell needs to complete berth's words. For bash:\n"
    "\n"
    "    berth completion bash > ~/.local/share/bash-completion/completions/berth\n"
    "\n"
    "for zsh a file _berth in a folder of $fpath, for fish\n"
    "~/.config/fish/completions/berth.fish. Installed packages have all three in place.\n";

#define WORD_MAX 40
#define ASK_MS 1000

// --- options, as the help has them

// Each word of the text that begins with - and has not been seen before.
static void each_option(const char *help, void (*found)(void *opaque, const char *option),
                        void *opaque)
{
    char seen[4096] = " ";
    for (const char *p = help; (p = strchr(p, '-')); p++) {
        char option[WORD_MAX], spaced[WORD_MAX + 2];
        if (p > help && !strchr(" [|(\n", p[-1]))
            continue;
        size_t len = strspn(p, "-abcdefghijklmnopqrstuvwxyz0123456789");
        if (len < 2 || len >= sizeof option || (p[1] == '-' && len < 4))
            continue;
        snprintf(option, sizeof option, "%.*s", (int)len, p);
        snprintf(spaced, sizeof spaced, " %s ", option);
        p += len - 1;
        if (strstr(seen, spaced) || strlen(seen) + len + 2 > sizeof seen)
            continue;
        strcat(strcat(seen, option), " ");
        found(opaque, option);
    }
}

// Those of a command, with berth run's where it takes them.
static void options_of(const struct command *c, void (*found)(void *opaque, const char *option),
                       void *opaque)
{
    each_option(c->help, found, opaque);
    if (c->help == create_help || c->help == edit_help)
        each_option(run_help, found, opaque);
}

// What may follow the command in its usage: "berth daemon start|status|stop", a line each.
static void each_verb(const struct command *c, void (*found)(void *opaque, const char *verb),
                      void *opaque)
{
    char start[WORD_MAX];
    snprintf(start, sizeof start, " berth %s ", c->name);
    const char *end = strstr(c->help, "\n\n");
    for (const char *p = c->help; (p = strstr(p, start)) && end && p < end;) {
        p += strlen(start);
        for (size_t len; (len = strspn(p, "abcdefghijklmnopqrstuvwxyz-")) > 1; p += len + 1) {
            char verb[WORD_MAX];
            snprintf(verb, sizeof verb, "%.*s", (int)len, p);
            if (verb[0] != '-')
                found(opaque, verb);
            if (p[len] != '|')
                break;
        }
    }
}

static void print_word(void *opaque, const char *option)
{
    printf(" %s", option);
}

// A command takes names where its usage says VM or VM...
static bool takes_vm(const struct command *c)
{
    const char *end = strchr(c->help, '\n');
    for (const char *p = c->help; (p = strstr(p, " VM")) && p < end; p++) {
        if (!isalpha((unsigned char)p[3]))
            return true;
    }
    return !strncmp(c->help, "usage: berth events", 19) ||
           !strncmp(c->help, "usage: berth info", 17) ||
           !strncmp(c->help, "usage: berth export", 19);
}

// --- shells

static void print_bash(void)
{
    puts("# bash completion for berth; made by berth completion bash\n"
         "_berth() {\n"
         "    local word=${COMP_WORDS[COMP_CWORD]} words names=\n"
         "    COMPREPLY=()\n"
         "    if [ \"$COMP_CWORD\" = 1 ]; then");
    printf("        words='");
    for (const struct command *c = commands; c->name; c++)
        printf("%s ", c->name);
    puts("--help --version'\n"
         "    else\n"
         "        case ${COMP_WORDS[1]} in");
    for (const struct command *c = commands; c->name; c++) {
        printf("        %s) words='--help", c->name);
        each_verb(c, print_word, NULL);
        options_of(c, print_word, NULL);
        puts(takes_vm(c) ? "'; names=1 ;;" : "' ;;");
    }
    puts("        esac\n"
         "        [ -z \"$names\" ] || words+=\" $(berth completion --names 2> /dev/null)\"\n"
         "    fi\n"
         "    mapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$word\")\n"
         "}\n"
         "complete -o default -F _berth berth");
}

static void print_zsh_option(void *opaque, const char *option)
{
    printf(" '%s'", option);
}

static void print_zsh(void)
{
    puts("#compdef berth\n"
         "# zsh completion for berth; made by berth completion zsh\n"
         "_berth() {\n"
         "    local -a found\n"
         "    if (( CURRENT == 2 )); then\n"
         "        found=(");
    for (const struct command *c = commands; c->name; c++)
        printf("            '%s:%s'\n", c->name, c->summary);
    puts("        )\n"
         "        _describe command found\n"
         "        return\n"
         "    fi\n"
         "    case $words[2] in");
    for (const struct command *c = commands; c->name; c++) {
        printf("    %s) found=('--help'", c->name);
        each_verb(c, print_zsh_option, NULL);
        options_of(c, print_zsh_option, NULL);
        puts(takes_vm(c) ? " ${(f)\"$(berth completion --names 2> /dev/null)\"}) ;;" : ") ;;");
    }
    puts("    esac\n"
         "    compadd -- $found\n"
         "    _files\n"
         "}\n"
         "_berth \"$@\"");
}

static void print_fish_option(void *opaque, const char *option)
{
    const char *command = opaque;
    bool word = option[1] == '-';
    printf("complete -c berth -n '__fish_seen_subcommand_from %s' %s %s\n", command,
           word ? "-l" : "-s", option + (word ? 2 : 1));
}

static void print_fish_verb(void *opaque, const char *verb)
{
    printf("complete -c berth -n '__fish_seen_subcommand_from %s' -f -a %s\n", (char *)opaque,
           verb);
}

static void print_fish(void)
{
    puts("# fish completion for berth; made by berth completion fish");
    for (const struct command *c = commands; c->name; c++) {
        printf("complete -c berth -n __fish_use_subcommand -f -a %s -d \"%s\"\n", c->name,
               c->summary);
        each_verb(c, print_fish_verb, (void *)c->name);
        options_of(c, print_fish_option, (void *)c->name);
        if (takes_vm(c))
            printf("complete -c berth -n '__fish_seen_subcommand_from %s' -f -a '(berth completion "
                   "--names 2> /dev/null)'\n",
                   c->name);
    }
}

// --- names

static void print_name(void *opaque, const char *name)
{
    puts(name);
}

// Of VMs, one a line, without starting anything.
static int print_names(void)
{
    json_t *result = NULL, *vm;
    size_t i;
    if (manager_request(MANAGER_IF_RUNNING, "ls", NULL, ASK_MS, &result, NULL) == OK) {
        json_array_foreach(json_object_get(result, "vms"), i, vm)
            puts(json_string_value(json_object_get(vm, "name")));
    }
    json_decref(result);
    (void)!registry_each(REGISTRY_VM, print_name, NULL, NULL);
    return EXIT_OK;
}

int cmd_completion(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*print)(void);
    } shells[] = {{"bash", print_bash}, {"zsh", print_zsh}, {"fish", print_fish}};
    if (argc == 2 && !strcmp(argv[1], "--names"))
        return print_names();
    for (size_t i = 0; argc == 2 && i < ARRAY_LEN(shells); i++) {
        if (!strcmp(argv[1], shells[i].name)) {
            shells[i].print();
            return EXIT_OK;
        }
    }
    return complain(EXIT_USAGE, "completion needs bash, zsh or fish");
}
