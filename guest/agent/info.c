// What the guest is, and where it can be reached. os-release(5), getifaddrs(3).
#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>

#include "agent.h"

static void add_os(struct agent_fields *out)
{
    FILE *f = fopen("/etc/os-release", "re");
    char line[256] = "", name[256] = "Linux";
    while (f && fgets(line, sizeof line, f)) {
        char *value = line + strlen("PRETTY_NAME=");
        if (strncmp(line, "PRETTY_NAME=", strlen("PRETTY_NAME=")) != 0)
            continue;
        value[strcspn(value, "\n")] = 0;
        size_t len = strlen(value);
        bool quoted = len > 1 && value[0] == '"' && value[len - 1] == '"';
        snprintf(name, sizeof name, "%.*s", (int)(quoted ? len - 2 : len), value + quoted);
    }
    if (f)
        fclose(f);
    agent_add(out, "os", "%s", name);
}

static unsigned prefix_of(const struct sockaddr *mask)
{
    const uint8_t *at;
    unsigned len, bits = 0;
    if (mask->sa_family == AF_INET) {
        at = (const uint8_t *)&((const struct sockaddr_in *)mask)->sin_addr;
        len = 4;
    } else {
        at = (const uint8_t *)&((const struct sockaddr_in6 *)mask)->sin6_addr;
        len = 16;
    }
    for (unsigned i = 0; i < len; i++)
        bits += (unsigned)__builtin_popcount(at[i]);
    return bits;
}

static void add_address(struct agent_fields *out, const struct ifaddrs *at)
{
    char text[INET6_ADDRSTRLEN];
    const void *address;
    if (!at->ifa_addr || !at->ifa_netmask || at->ifa_flags & IFF_LOOPBACK)
        return;
    if (at->ifa_addr->sa_family == AF_INET)
        address = &((struct sockaddr_in *)at->ifa_addr)->sin_addr;
    else if (at->ifa_addr->sa_family == AF_INET6)
        address = &((struct sockaddr_in6 *)at->ifa_addr)->sin6_addr;
    else
        return;
    if (inet_ntop(at->ifa_addr->sa_family, address, text, sizeof text))
        agent_add(out, "address", "%s %s/%u", at->ifa_name, text, prefix_of(at->ifa_netmask));
}

err_t request_info(struct agent_link *link, struct shared *shared, struct error *e)
{
    struct agent_fields out = {0};
    struct utsname uts;
    struct sysinfo sys;
    struct ifaddrs *list = NULL;
    add_os(&out);
    agent_add(&out, "agent", "%s", BERTH_VERSION);
    if (uname(&uts) == 0) {
        agent_add(&out, "kernel", "%s", uts.release);
        agent_add(&out, "hostname", "%s", uts.nodename);
    }
    if (sysinfo(&sys) == 0) {
        agent_add(&out, "uptime", "%ld", sys.uptime);
        agent_add(&out, "memory_free_mib", "%llu",
                  (unsigned long long)sys.freeram * sys.mem_unit / MIB);
    }
    if (getifaddrs(&list) == 0) {
        for (struct ifaddrs *at = list; at; at = at->ifa_next)
            add_address(&out, at);
        freeifaddrs(list);
    }
    return agent_send_fields(link, AGENT_OK, &out, e);
}
