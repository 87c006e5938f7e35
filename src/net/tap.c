// Tap and macvtap interfaces of Linux. tun(4), netdevice(7), rtnetlink(7), linux/if_tun.h.
//
// The kernel is told to leave to the guest what guests leave to each other (checksums, segments),
// so that large frames cross in one piece here, too. Not done: several queues of one interface.
#include "net/tap.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_link.h>
#include <linux/if_tun.h>
#include <linux/rtnetlink.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define MACVTAP_PREFIX "bmt"

enum kind { TAP, BRIDGE, MACVTAP, KINDS };

static const char *const prefixes[KINDS] = {"tap:", "bridge:", "macvtap:"};

static const char *interface_of(const char *network, enum kind *kind)
{
    for (int i = 0; network && i < KINDS; i++) {
        size_t len = strlen(prefixes[i]);
        *kind = (enum kind)i;
        if (!strncmp(network, prefixes[i], len))
            return network + len;
    }
    return NULL;
}

bool tap_named(const char *network)
{
    enum kind kind;
    const char *name = interface_of(network, &kind);
    return name && *name && *name != '.' && strlen(name) < IFNAMSIZ && !strpbrk(name, "/ :%\t\n");
}

// --- words

static err_t denied(const char *network, const char *what, const char *command, struct error *e)
{
    return error_set(e, ERR_DENIED,
                     "%s: this user may not %s, which takes CAP_NET_ADMIN; as root: %s", network,
                     what, command);
}

static err_t failed(const char *network, const char *what, int why, struct error *e)
{
    return error_set(e, err_from_errno(why), "%s: cannot %s: %s", network, what, strerror(why));
}

// --- an interface's settings

static err_t change(unsigned long request, struct ifreq *ifr)
{
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    int done = fd < 0 ? -1 : ioctl(fd, request, ifr), why = errno;
    if (fd >= 0)
        close(fd);
    errno = why;
    return done < 0 ? err_from_errno(why) : OK;
}

static err_t bring_up(const char *name)
{
    struct ifreq ifr = {0};
    snprintf(ifr.ifr_name, sizeof ifr.ifr_name, "%s", name);
    err_t err = change(SIOCGIFFLAGS, &ifr);
    if (err || ifr.ifr_flags & IFF_UP)
        return err;
    ifr.ifr_flags |= IFF_UP;
    return change(SIOCSIFFLAGS, &ifr);
}

// Makes it speak packets as ports do: virtio's header, and what is left to be done.
static err_t set_up(int fd, const char *network, struct error *e)
{
    const int header = NET_HEADER_BYTES, little_endian = 1;
    const unsigned offloads = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6;
    if (ioctl(fd, TUNSETVNETHDRSZ, &header) < 0 || ioctl(fd, TUNSETVNETLE, &little_endian) < 0)
        return failed(network, "make it carry virtio's header", errno, e);
    if (ioctl(fd, TUNSETOFFLOAD, offloads | TUN_F_UFO) < 0 &&
        ioctl(fd, TUNSETOFFLOAD, offloads) < 0)
        return failed(network, "make it leave segments whole", errno, e);
    return OK;
}

// --- tap

// name: "%d" in it is made a number, and the name that it got is in it afterwards.
static err_t open_tap(const char *network, char name[IFNAMSIZ], int *fd, struct error *e)
{
    struct ifreq ifr = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
    char command[96];
    bool there = if_nametoindex(name) != 0;
    *fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
    if (*fd < 0 && (errno == ENOENT || errno == ENXIO))
        return error_set(e, ERR_UNSUPPORTED,
                         "%s: this host has no /dev/net/tun; as root: modprobe tun", network);
    if (*fd < 0)
        return denied(network, "open /dev/net/tun", "chmod a+rw /dev/net/tun", e);
    memcpy(ifr.ifr_name, name, IFNAMSIZ);
    if (ioctl(*fd, TUNSETIFF, &ifr) < 0) {
        snprintf(command, sizeof command, "ip tuntap add dev %s mode tap vnet_hdr user %u", name,
                 getuid());
        if (errno == EPERM || errno == EACCES)
            return denied(network, there ? "use this interface" : "make an interface", command, e);
        return failed(network, errno == EBUSY ? "use it, somebody does" : "use it as a tap", errno,
                      e);
    }
    memcpy(name, ifr.ifr_name, IFNAMSIZ);
    return set_up(*fd, network, e);
}

// Where an operator made it, whether it is up is the operator's affair, too.
static err_t plug_tap(const char *network, const char *interface, int *fd, struct error *e)
{
    char name[IFNAMSIZ];
    snprintf(name, sizeof name, "%s", interface);
    err_t err = open_tap(network, name, fd, e);
    if (!err)
        (void)!bring_up(name);
    return err;
}

static err_t plug_bridge(const char *network, const char *bridge, int *fd, struct error *e)
{
    char name[IFNAMSIZ] = "berth%d", command[96];
    struct ifreq ifr = {0};
    if (!if_nametoindex(bridge))
        return error_set(e, ERR_NOT_FOUND,
                         "%s: there is no such bridge; as root: ip link add %s type bridge",
                         network, bridge);
    snprintf(command, sizeof command, "make a tap in %s and give berth its name", bridge);
    err_t err = open_tap(network, name, fd, e);
    if (err)
        return err == ERR_DENIED ? denied(network, "make an interface", command, e) : err;
    snprintf(ifr.ifr_name, sizeof ifr.ifr_name, "%s", bridge);
    ifr.ifr_ifindex = (int)if_nametoindex(name);
    if (change(SIOCBRADDIF, &ifr) || bring_up(name))
        return errno == EPERM
                   ? denied(network, "change this bridge", command, e)
                   : failed(network, "put an interface into it, is it a bridge?", errno, e);
    return OK;
}

// --- macvtap

struct request {
    struct nlmsghdr head;
    struct ifinfomsg info;
    uint8_t attributes[256];
};

static struct rtattr *put(struct request *r, unsigned short type, const void *data, size_t len)
{
    struct rtattr *a = (struct rtattr *)((uint8_t *)r + NLMSG_ALIGN(r->head.nlmsg_len));
    *a = (struct rtattr){(unsigned short)RTA_LENGTH(len), type};
    if (len)
        memcpy(RTA_DATA(a), data, len);
    r->head.nlmsg_len = (uint32_t)(NLMSG_ALIGN(r->head.nlmsg_len) + RTA_ALIGN(a->rta_len));
    return a;
}

static void end(const struct request *r, struct rtattr *a)
{
    a->rta_len = (unsigned short)((const uint8_t *)r + r->head.nlmsg_len - (const uint8_t *)a);
}

// Sends a request about links; its errno, 0: done.
static int ask_kernel(struct request *r)
{
    struct {
        struct nlmsghdr head;
        struct nlmsgerr error;
        uint8_t rest[1024];
    } answer = {0};
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE), why = EIO;
    if (fd < 0)
        return errno;
    r->head.nlmsg_flags |= NLM_F_REQUEST | NLM_F_ACK;
    if (send(fd, r, r->head.nlmsg_len, 0) < 0)
        why = errno;
    else if (recv(fd, &answer, sizeof answer, 0) >= (ssize_t)NLMSG_LENGTH(sizeof answer.error) &&
             answer.head.nlmsg_type == NLMSG_ERROR)
        why = -answer.error.error;
    close(fd);
    return why;
}

// Follows from the card, so that who comes next finds it.
static void macvtap_name(const char *vm, unsigned nic, char name[IFNAMSIZ])
{
    uint32_t hash = 2166136261u; // FNV-1a
    for (; *vm; vm++)
        hash = (hash ^ (uint8_t)*vm) * 16777619u;
    snprintf(name, IFNAMSIZ, MACVTAP_PREFIX "%08x", (hash ^ nic) * 16777619u);
}

static void delete_link(const char *name)
{
    struct request r = {
        .head = {.nlmsg_len = NLMSG_LENGTH(sizeof r.info), .nlmsg_type = RTM_DELLINK},
        .info = {.ifi_index = (int)if_nametoindex(name)}};
    if (r.info.ifi_index)
        (void)ask_kernel(&r);
}

static int make_macvtap(const char *name, const char *below, const uint8_t mac[6])
{
    const uint32_t link = if_nametoindex(below), mode = MACVLAN_MODE_BRIDGE;
    struct request r = {.head = {.nlmsg_len = NLMSG_LENGTH(sizeof r.info),
                                 .nlmsg_type = RTM_NEWLINK,
                                 .nlmsg_flags = NLM_F_CREATE | NLM_F_EXCL},
                        .info = {.ifi_flags = IFF_UP, .ifi_change = IFF_UP}};
    put(&r, IFLA_IFNAME, name, strlen(name) + 1);
    put(&r, IFLA_LINK, &link, sizeof link);
    put(&r, IFLA_ADDRESS, mac, NET_MAC_BYTES);
    struct rtattr *info = put(&r, IFLA_LINKINFO, NULL, 0);
    put(&r, IFLA_INFO_KIND, "macvtap", 7);
    struct rtattr *data = put(&r, IFLA_INFO_DATA, NULL, 0);
    put(&r, IFLA_MACVLAN_MODE, &mode, sizeof mode);
    end(&r, data);
    end(&r, info);
    return ask_kernel(&r);
}

static bool is_macvtap(const char *name)
{
    char path[64];
    snprintf(path, sizeof path, "/sys/class/net/%s/macvtap", name);
    return access(path, F_OK) == 0;
}

static err_t open_macvtap(const char *network, const char *name, int *fd, struct error *e)
{
    struct ifreq ifr = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
    char path[32], command[96];
    snprintf(path, sizeof path, "/dev/tap%u", if_nametoindex(name));
    snprintf(command, sizeof command, "chown %u %s", getuid(), path);
    *fd = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
    if (*fd < 0 && errno == ENOENT)
        return error_set(e, ERR_UNSUPPORTED,
                         "%s: there is no %s; here nobody makes the device files of macvtap "
                         "interfaces (devtmpfs would), so use a bridge: or tap: instead",
                         network, path);
    if (*fd < 0)
        return denied(network, "open its device file", command, e);
    if (ioctl(*fd, TUNSETIFF, &ifr) < 0)
        return failed(network, "use it as a tap", errno, e);
    return set_up(*fd, network, e);
}

// A card's frames pass only with the interface's own MAC address.
static err_t give_mac(const char *network, const char *name, const uint8_t mac[6], struct error *e)
{
    struct ifreq now = {0}, new = {0};
    char command[96];
    snprintf(now.ifr_name, sizeof now.ifr_name, "%s", name);
    if (!change(SIOCGIFHWADDR, &now) && !memcmp(now.ifr_hwaddr.sa_data, mac, NET_MAC_BYTES))
        return OK;
    new = now;
    memcpy(new.ifr_hwaddr.sa_data, mac, NET_MAC_BYTES);
    if (!change(SIOCSIFHWADDR, &new))
        return OK;
    const uint8_t *has = (const uint8_t *)now.ifr_hwaddr.sa_data;
    snprintf(command, sizeof command,
             "nothing, but give the card mac=%02x:%02x:%02x:%02x:%02x:%02x", has[0], has[1], has[2],
             has[3], has[4], has[5]);
    return denied(network, "give it the card's MAC address", command, e);
}

static err_t plug_macvtap(const char *network, const char *interface, const char *vm, unsigned nic,
                          const uint8_t mac[6], int *fd, struct error *e)
{
    char name[IFNAMSIZ], command[96];
    if (!if_nametoindex(interface))
        return error_set(e, ERR_NOT_FOUND, "%s: there is no such interface; ip link shows them",
                         network);
    if (is_macvtap(interface)) {
        err_t err = give_mac(network, interface, mac, e);
        return err ? err : open_macvtap(network, interface, fd, e);
    }
    macvtap_name(vm, nic, name);
    snprintf(command, sizeof command, "ip link add link %s name mv0 type macvtap mode bridge",
             interface);
    delete_link(name);
    int why = make_macvtap(name, interface, mac);
    if (why == EPERM || why == EACCES)
        return denied(network, "make an interface", command, e);
    if (why)
        return failed(network, "make an interface on it", why, e);
    err_t err = open_macvtap(network, name, fd, e);
    if (err)
        delete_link(name);
    return err;
}

void tap_remove(const char *network, const char *vm, unsigned nic)
{
    enum kind kind;
    char name[IFNAMSIZ];
    const char *interface = interface_of(network, &kind);
    if (!interface || kind != MACVTAP || is_macvtap(interface))
        return;
    macvtap_name(vm, nic, name);
    delete_link(name);
}

err_t tap_open(const char *network, const char *vm, unsigned nic, const uint8_t mac[NET_MAC_BYTES],
               int *fd, struct error *e)
{
    enum kind kind = TAP;
    const char *interface = interface_of(network, &kind);
    *fd = -1;
    err_t err = kind == TAP      ? plug_tap(network, interface, fd, e)
                : kind == BRIDGE ? plug_bridge(network, interface, fd, e)
                                 : plug_macvtap(network, interface, vm, nic, mac, fd, e);
    if (err && *fd >= 0) {
        close(*fd);
        *fd = -1;
    }
    return err;
}
