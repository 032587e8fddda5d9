/*
 * The kernel's own price of a pod's network: the netlink and nftables messages that attaching and detaching a pod
 * need, and nothing else. No lease, no lock, no switches below /proc/sys, no look at what is there. What
 * `make bench` measures `dunnage-net` against.
 *
 * Usage: net NETNS GATEWAY. Works in that network namespace, with an nftables table of its own. Reads lines from stdin:
 *
 *     add NETNS LINK ADDRESS PORT
 *     del LINK ADDRESS PORT
 *
 * and answers each with a line of microseconds. ADDRESS is the pod's, LINK the name of the host's end.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/neighbour.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <net/if.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define TABLE "floor"
#define MAP "ports"
#define ACK (NLM_F_REQUEST | NLM_F_ACK)
#define MAKE (ACK | NLM_F_CREATE | NLM_F_EXCL)

/* Messages that go out together, in one datagram. */
struct batch {
    char bytes[8192];
    size_t length;
    struct nlmsghdr *last;
    int acks;
};

static const unsigned char host_mac[] = {0xde, 0xd0, 0, 0, 0, 1}, pod_mac[] = {0xda, 0xd0, 0, 0, 0, 1};
static uint32_t sequence;
static uint32_t gateway;

static void die(const char *what) {
    fprintf(stderr, "net floor: %s: %s\n", what, strerror(errno));
    _exit(1);
}

static double microseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1e6 + now.tv_nsec / 1e3;
}

static void grow(struct batch *batch, const void *bytes, size_t length) {
    if (batch->length + NLMSG_ALIGN(length) > sizeof batch->bytes) {
        errno = EMSGSIZE;
        die("a datagram");
    }
    if (bytes) memcpy(batch->bytes + batch->length, bytes, length);
    batch->length += NLMSG_ALIGN(length);
    batch->last->nlmsg_len = batch->bytes + batch->length - (char *)batch->last;
}

/* Begins a message; batches are zeroed when they are made. */
static void message(struct batch *batch, int type, int flags, const void *body, size_t length) {
    batch->last = (void *)(batch->bytes + batch->length);
    batch->length += sizeof *batch->last;
    *batch->last = (struct nlmsghdr){.nlmsg_type = type, .nlmsg_flags = flags, .nlmsg_seq = ++sequence};
    if (flags & NLM_F_ACK) batch->acks++;
    grow(batch, body, length);
}

static struct rtattr *attribute(struct batch *batch, int type, const void *value, size_t length) {
    struct rtattr *made = (void *)(batch->bytes + batch->length);
    struct rtattr header = {.rta_type = type, .rta_len = RTA_LENGTH(length)};
    grow(batch, &header, sizeof header);
    if (length) grow(batch, value, length);
    return made;
}

static void text(struct batch *batch, int type, const char *value) {
    attribute(batch, type, value, strlen(value) + 1);
}

static void number(struct batch *batch, int type, uint32_t value) {
    attribute(batch, type, &value, sizeof value);
}

static struct rtattr *nest(struct batch *batch, int type) {
    return attribute(batch, type | NLA_F_NESTED, NULL, 0);
}

static void end(struct batch *batch, struct rtattr *nested) {
    nested->rta_len = batch->bytes + batch->length - (char *)nested;
}

static int open_socket(int protocol) {
    int opened = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol);
    struct sockaddr_nl anybody = {.nl_family = AF_NETLINK};
    if (opened < 0 || bind(opened, (void *)&anybody, sizeof anybody)) die("netlink socket");
    return opened;
}

/* Sends and reads all acknowledgements; gives the first answer that is none. */
static const struct nlmsghdr *exchange(int socket, struct batch *batch, const char *what) {
    static char answer[32768];
    static char kept[4096];
    const struct nlmsghdr *found = NULL;
    if (send(socket, batch->bytes, batch->length, 0) < 0) die(what);
    for (int acks = batch->acks; acks > 0;) {
        ssize_t received = recv(socket, answer, sizeof answer, 0);
        if (received < 0) die(what);
        for (struct nlmsghdr *header = (void *)answer; NLMSG_OK(header, received);
             header = NLMSG_NEXT(header, received)) {
            if (header->nlmsg_type == NLMSG_ERROR) {
                errno = -((struct nlmsgerr *)NLMSG_DATA(header))->error;
                if (errno) die(what);
                acks--;
            } else if (!found && header->nlmsg_len <= sizeof kept) {
                found = memcpy(kept, header, header->nlmsg_len);
            }
        }
    }
    return found;
}

static void one_end(struct batch *batch, const char *name, const unsigned char *mac) {
    text(batch, IFLA_IFNAME, name);
    attribute(batch, IFLA_ADDRESS, mac, 6);
    number(batch, IFLA_NUM_TX_QUEUES, 1);
    number(batch, IFLA_NUM_RX_QUEUES, 1);
}

static void veth(struct batch *batch, const char *name, int netns) {
    struct ifinfomsg link = {0};
    message(batch, RTM_NEWLINK, MAKE | NLM_F_ECHO, &link, sizeof link);
    one_end(batch, name, host_mac);
    struct rtattr *info = nest(batch, IFLA_LINKINFO);
    text(batch, IFLA_INFO_KIND, "veth");
    struct rtattr *data = nest(batch, IFLA_INFO_DATA);
    struct rtattr *peer = nest(batch, VETH_INFO_PEER);
    grow(batch, &link, sizeof link);
    one_end(batch, "eth0", pod_mac);
    number(batch, IFLA_NET_NS_FD, netns);
    end(batch, peer);
    end(batch, data);
    end(batch, info);
}

static void without_link_local(struct batch *batch, int index) {
    struct ifinfomsg link = {.ifi_index = index};
    unsigned char none = IN6_ADDR_GEN_MODE_NONE;
    message(batch, RTM_NEWLINK, ACK, &link, sizeof link);
    struct rtattr *all = nest(batch, IFLA_AF_SPEC);
    struct rtattr *ipv6 = nest(batch, AF_INET6);
    attribute(batch, IFLA_INET6_ADDR_GEN_MODE, &none, 1);
    end(batch, ipv6);
    end(batch, all);
}

static void up(struct batch *batch, int index, int is_up) {
    struct ifinfomsg link = {.ifi_index = index, .ifi_change = IFF_UP, .ifi_flags = is_up ? IFF_UP : 0};
    message(batch, RTM_NEWLINK, ACK, &link, sizeof link);
}

static void address(struct batch *batch, int index, uint32_t ip) {
    struct ifaddrmsg body = {.ifa_family = AF_INET, .ifa_prefixlen = 32, .ifa_index = index};
    message(batch, RTM_NEWADDR, MAKE, &body, sizeof body);
    number(batch, IFA_LOCAL, ip);
    number(batch, IFA_ADDRESS, ip);
}

static struct rtmsg route_to(int prefix, int scope, int flags) {
    return (struct rtmsg){.rtm_family = AF_INET, .rtm_dst_len = prefix, .rtm_table = RT_TABLE_MAIN,
        .rtm_protocol = RTPROT_STATIC, .rtm_scope = scope, .rtm_type = RTN_UNICAST, .rtm_flags = flags};
}

static void neighbour(struct batch *batch, int index, uint32_t ip, const unsigned char *mac) {
    struct ndmsg body = {.ndm_family = AF_INET, .ndm_ifindex = index, .ndm_state = NUD_PERMANENT};
    message(batch, RTM_NEWNEIGH, ACK | NLM_F_CREATE, &body, sizeof body);
    number(batch, NDA_DST, ip);
    attribute(batch, NDA_LLADDR, mac, 6);
}

static void host_end(struct batch *batch, int index, uint32_t pod) {
    without_link_local(batch, index);
    up(batch, index, 1);
    struct rtmsg route = route_to(32, RT_SCOPE_LINK, 0);
    message(batch, RTM_NEWROUTE, MAKE, &route, sizeof route);
    number(batch, RTA_OIF, index);
    number(batch, RTA_DST, pod);
    neighbour(batch, index, pod, pod_mac);
}

static void pod_end(struct batch *batch, int index, uint32_t pod) {
    up(batch, 1, 1);
    address(batch, index, pod);
    up(batch, index, 1);
    struct rtmsg route = route_to(0, RT_SCOPE_UNIVERSE, RTNH_F_ONLINK);
    message(batch, RTM_NEWROUTE, MAKE, &route, sizeof route);
    number(batch, RTA_OIF, index);
    number(batch, RTA_GATEWAY, gateway);
    neighbour(batch, index, gateway, host_mac);
}

static void edge(struct batch *batch, int type) {
    struct nfgenmsg body = {.res_id = htons(NFNL_SUBSYS_NFTABLES)};
    message(batch, type, NLM_F_REQUEST, &body, sizeof body);
}

static void nft(struct batch *batch, int type, int flags) {
    struct nfgenmsg body = {.nfgen_family = 1 /* NFPROTO_INET */};
    message(batch, NFNL_SUBSYS_NFTABLES << 8 | type, flags, &body, sizeof body);
    text(batch, 1 /* the table, in every message */, TABLE);
}

static void value(struct batch *batch, int type, const void *bytes, size_t length) {
    struct rtattr *nested = nest(batch, type);
    attribute(batch, NFTA_DATA_VALUE, bytes, length);
    end(batch, nested);
}

/* The host port of a pod, which leads to its port 80; to be removed when `pod` is zero. */
static void element(struct batch *batch, uint16_t port, uint32_t pod) {
    unsigned char key[8] = {IPPROTO_TCP, 0, 0, 0, port >> 8, port & 0xff}, data[8] = {0, 0, 0, 0, 0, 80};
    memcpy(data, &pod, sizeof pod);
    edge(batch, NFNL_MSG_BATCH_BEGIN);
    nft(batch, pod ? NFT_MSG_NEWSETELEM : NFT_MSG_DELSETELEM, pod ? MAKE : ACK);
    text(batch, NFTA_SET_ELEM_LIST_SET, MAP);
    struct rtattr *list = nest(batch, NFTA_SET_ELEM_LIST_ELEMENTS);
    struct rtattr *one = nest(batch, NFTA_LIST_ELEM);
    value(batch, NFTA_SET_ELEM_KEY, key, sizeof key);
    if (pod) value(batch, NFTA_SET_ELEM_DATA, data, sizeof data);
    end(batch, one);
    end(batch, list);
    edge(batch, NFNL_MSG_BATCH_END);
}

static void make_table(int netfilter) {
    struct batch batch = {0};
    edge(&batch, NFNL_MSG_BATCH_BEGIN);
    nft(&batch, NFT_MSG_NEWTABLE, MAKE);
    nft(&batch, NFT_MSG_NEWSET, MAKE);
    text(&batch, NFTA_SET_NAME, MAP);
    number(&batch, NFTA_SET_FLAGS, htonl(NFT_SET_MAP));
    number(&batch, NFTA_SET_KEY_TYPE, htonl(12 << 6 | 13));
    number(&batch, NFTA_SET_KEY_LEN, htonl(8));
    number(&batch, NFTA_SET_DATA_TYPE, htonl(7 << 6 | 13));
    number(&batch, NFTA_SET_DATA_LEN, htonl(8));
    number(&batch, NFTA_SET_ID, htonl(1));
    edge(&batch, NFNL_MSG_BATCH_END);
    exchange(netfilter, &batch, "make the table");
}

/* The index of a new link and that of its other end. */
static void indexes(const struct nlmsghdr *answer, int *host, int *pod) {
    if (!answer) die("no link in the answer");
    const struct ifinfomsg *link = NLMSG_DATA(answer);
    int length = answer->nlmsg_len - NLMSG_LENGTH(sizeof *link);
    *host = link->ifi_index;
    for (const struct rtattr *each = IFLA_RTA(link); RTA_OK(each, length); each = RTA_NEXT(each, length))
        if (each->rta_type == IFLA_LINK) memcpy(pod, RTA_DATA(each), sizeof *pod);
}

static double add(int route, int netfilter, int home, int netns, const char *name, uint32_t pod, uint16_t port) {
    struct batch made = {0}, outside = {0}, inside = {0}, ports = {0};
    int host = 0, index = 0;
    double started = microseconds();
    veth(&made, name, netns);
    indexes(exchange(route, &made, "make a veth pair"), &host, &index);
    host_end(&outside, host, pod);
    exchange(route, &outside, "configure the host's end");
    if (setns(netns, CLONE_NEWNET)) die("enter the pod");
    int there = open_socket(NETLINK_ROUTE);
    pod_end(&inside, index, pod);
    exchange(there, &inside, "configure the pod's end");
    close(there);
    if (setns(home, CLONE_NEWNET)) die("leave the pod");
    element(&ports, port, pod);
    exchange(netfilter, &ports, "add the port");
    return microseconds() - started;
}

static double del(int route, int netfilter, const char *name, uint16_t port) {
    struct batch gone = {0}, ports = {0};
    struct ifinfomsg down = {.ifi_change = IFF_UP};
    double started = microseconds();
    message(&gone, RTM_NEWLINK, ACK, &down, sizeof down);
    text(&gone, IFLA_IFNAME, name);
    number(&gone, IFLA_MASTER, 0);
    exchange(route, &gone, "take the link down");
    element(&ports, port, 0);
    exchange(netfilter, &ports, "delete the port");
    return microseconds() - started;
}

int main(int count, char **arguments) {
    char line[512], netns[256], name[IFNAMSIZ], ip[INET_ADDRSTRLEN];
    unsigned short port;
    int home = count == 3 ? open(arguments[1], O_RDONLY | O_CLOEXEC) : -1;
    if (home < 0 || setns(home, CLONE_NEWNET)) die("enter the host's network namespace");
    int route = open_socket(NETLINK_ROUTE), netfilter = open_socket(NETLINK_NETFILTER);
    make_table(netfilter);
    gateway = inet_addr(arguments[2]);
    while (fgets(line, sizeof line, stdin)) {
        double took;
        if (sscanf(line, "add %255s %15s %15s %hu", netns, name, ip, &port) == 4) {
            int pod = open(netns, O_RDONLY | O_CLOEXEC);
            if (pod < 0) die(netns);
            took = add(route, netfilter, home, pod, name, inet_addr(ip), port);
            close(pod);
        } else if (sscanf(line, "del %15s %15s %hu", name, ip, &port) == 3) {
            took = del(route, netfilter, name, port);
        } else {
            errno = EINVAL;
            die(line);
        }
        printf("%.1f\n", took);
        fflush(stdout);
    }
    return 0;
}
