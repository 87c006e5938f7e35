// Users of the guest. passwd(5), group(5).
#include <grp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

#include "agent.h"

#define LINE 1024

// Splits a line at its colons; returns the number of fields.
static unsigned split(char *line, char **field, unsigned max)
{
    unsigned n = 0;
    line[strcspn(line, "\n")] = 0;
    for (char *at = line; at && n < max; n++) {
        field[n] = at;
        at = strchr(at, ':');
        if (at)
            *at++ = 0;
    }
    return n;
}

static void take(struct user *user, char **field)
{
    snprintf(user->name, sizeof user->name, "%s", field[0]);
    user->uid = (uid_t)strtoul(field[2], NULL, 10);
    user->gid = (gid_t)strtoul(field[3], NULL, 10);
    snprintf(user->home, sizeof user->home, "%s", *field[5] ? field[5] : "/");
    snprintf(user->shell, sizeof user->shell, "%s", *field[6] ? field[6] : "/bin/sh");
}

static bool find_in_passwd(const char *name, struct user *out)
{
    FILE *f = fopen("/etc/passwd", "re");
    char line[LINE], *field[7];
    bool found = false;
    while (f && !found && fgets(line, sizeof line, f)) {
        found = split(line, field, 7) == 7 && (!strcmp(field[0], name) || !strcmp(field[2], name));
        if (found)
            take(out, field);
    }
    if (f)
        fclose(f);
    return found;
}

static bool lists(char *members, const char *name)
{
    for (char *rest = members, *member; (member = strsep(&rest, ","));)
        if (!strcmp(member, name))
            return true;
    return false;
}

static void find_groups(struct user *user)
{
    FILE *f = fopen("/etc/group", "re");
    char line[LINE], *field[4];
    while (f && user->group_count < GROUPS_MAX && fgets(line, sizeof line, f))
        if (split(line, field, 4) == 4 && lists(field[3], user->name))
            user->groups[user->group_count++] = (gid_t)strtoul(field[2], NULL, 10);
    if (f)
        fclose(f);
}

err_t user_find(const char *name, struct user *out, struct error *e)
{
    *out = (struct user){.name = "root", .home = "/", .shell = "/bin/sh"};
    if (!find_in_passwd(name, out) && strcmp(name, "root") != 0 && strcmp(name, "0") != 0)
        return error_set(e, ERR_NOT_FOUND, "the guest has no user '%.60s'", name);
    out->groups[out->group_count++] = out->gid;
    find_groups(out);
    return OK;
}

err_t user_become(const struct user *user, struct error *e)
{
    if (setgroups((size_t)user->group_count, user->groups) < 0 || setgid(user->gid) < 0 ||
        setuid(user->uid) < 0)
        return error_set(e, ERR_DENIED, "cannot become the user '%s'", user->name);
    return OK;
}
