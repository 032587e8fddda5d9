/*
 * The kernel's own price of one container: the calls that nobody can leave out, in the order a runtime makes
 * them, with no specification, no checks, no shim and no protocol around. What `make bench` measures runtimes
 * against.
 *
 * Work: overlay root, a cgroup with limits in every hierarchy, five new namespaces, the default mounts and
 * devices, masked and read-only paths, pivot_root, /bin/true, and all of it taken away again. There is no
 * seccomp filter: nearly all that one costs is the runtime's own work of compiling it.
 *
 * Usage: floor LOWER WORKDIR CGROUP. Reads one byte per round from stdin, answers one line of microseconds:
 * root, cgroups, clone and join, child until its end, cleanup.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define HIERARCHIES 16
#define PATH 512

struct hierarchy {
    char path[PATH]; /* where it is mounted */
    char options[128];
    int unified;
};

static struct hierarchy hierarchies[HIERARCHIES];
static int hierarchy_count;
static const char *cgroup_parent;

static void die(const char *what) {
    fprintf(stderr, "floor: %s: %s\n", what, strerror(errno));
    _exit(1);
}

static double microseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1e6 + now.tv_nsec / 1e3;
}

/* Writes text to the file that the format names; a file that is not there is no error. */
static int put(const char *text, const char *format, ...) {
    char path[PATH];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(path, sizeof path, format, arguments);
    va_end(arguments);
    int file = open(path, O_WRONLY | O_CLOEXEC);
    if (file < 0) return -1;
    ssize_t written = write(file, text, strlen(text));
    close(file);
    return written < 0 ? -1 : 0;
}

static void find_hierarchies(void) {
    char line[1024], path[PATH], kind[32], source[64], options[128];
    FILE *table = fopen("/proc/self/mountinfo", "re");
    if (!table) die("mountinfo");
    while (fgets(line, sizeof line, table) && hierarchy_count < HIERARCHIES) {
        char *filesystem = strstr(line, " - ");
        if (!filesystem || sscanf(line, "%*s %*s %*s %*s %511s", path) != 1) continue;
        if (sscanf(filesystem, " - %31s %63s %127s", kind, source, options) != 3) continue;
        if (strcmp(kind, "cgroup") && strcmp(kind, "cgroup2")) continue;
        struct hierarchy *found = &hierarchies[hierarchy_count++];
        strcpy(found->path, path);
        strcpy(found->options, options);
        found->unified = !strcmp(kind, "cgroup2");
    }
    fclose(table);
}

static int controls(const struct hierarchy *hierarchy, const char *controller) {
    char options[130];
    snprintf(options, sizeof options, ",%s,", hierarchy->options);
    char wanted[64];
    snprintf(wanted, sizeof wanted, ",%s,", controller);
    return strstr(options, wanted) != NULL;
}

static void make_cgroups(void) {
    static const char *const devices[] = {"c *:* m", "b *:* m", "c 1:3 rwm", "c 1:5 rwm", "c 1:7 rwm", "c 1:8 rwm",
                                          "c 1:9 rwm", "c 5:0 rwm", "c 5:2 rwm", "c 136:* rwm"};
    for (int i = 0; i < hierarchy_count; i++) {
        const struct hierarchy *at = &hierarchies[i];
        char dir[PATH * 2];
        snprintf(dir, sizeof dir, "%s/%s/floor", at->path, cgroup_parent);
        if (mkdir(dir, 0755) && errno != EEXIST) die(dir);
        if (at->unified) {
            put("50000 100000", "%s/cpu.max", dir);
            put("134217728", "%s/memory.max", dir);
        }
        if (controls(at, "cpu")) {
            put("512", "%s/cpu.shares", dir);
            put("100000", "%s/cpu.cfs_period_us", dir);
            put("50000", "%s/cpu.cfs_quota_us", dir);
        }
        if (controls(at, "memory")) put("134217728", "%s/memory.limit_in_bytes", dir);
        if (controls(at, "cpuset")) {
            put("0", "%s/%s/cpuset.cpus", at->path, cgroup_parent);
            put("0", "%s/%s/cpuset.mems", at->path, cgroup_parent);
            put("0", "%s/cpuset.cpus", dir);
            put("0", "%s/cpuset.mems", dir);
        }
        if (controls(at, "devices")) {
            put("a", "%s/devices.deny", dir);
            for (size_t d = 0; d < sizeof devices / sizeof *devices; d++) put(devices[d], "%s/devices.allow", dir);
        }
    }
}

static void join_cgroups(pid_t pid) {
    char text[16];
    snprintf(text, sizeof text, "%d", pid);
    for (int i = 0; i < hierarchy_count; i++)
        if (!hierarchies[i].unified) put(text, "%s/%s/floor/cgroup.procs", hierarchies[i].path, cgroup_parent);
}

static void remove_cgroups(void) {
    for (int i = 0; i < hierarchy_count; i++) {
        char dir[PATH * 2];
        snprintf(dir, sizeof dir, "%s/%s/floor", hierarchies[i].path, cgroup_parent);
        while (rmdir(dir) && errno == EBUSY) usleep(100);
    }
}

static void make_root(const char *root) {
    static const struct { const char *name; int minor; } devices[] = {{"dev/null", 3}, {"dev/zero", 5}, {"dev/full", 7},
                                                                      {"dev/random", 8}, {"dev/urandom", 9}};
    static const char *const links[][2] = {{"/proc/self/fd", "dev/fd"}, {"/proc/self/fd/0", "dev/stdin"},
                                           {"/proc/self/fd/1", "dev/stdout"}, {"/proc/self/fd/2", "dev/stderr"},
                                           {"pts/ptmx", "dev/ptmx"}};
    const unsigned long quiet = MS_NOSUID | MS_NOEXEC | MS_NODEV;
    mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL);
    if (mount(root, root, NULL, MS_BIND | MS_REC, NULL) || chdir(root)) die("root");
    if (mount("proc", "proc", "proc", quiet, NULL)) die("proc");
    if (mount("tmpfs", "dev", "tmpfs", MS_NOSUID | MS_STRICTATIME, "mode=755,size=65536k")) die("dev");
    mkdir("dev/pts", 0755);
    mkdir("dev/mqueue", 0755);
    mkdir("dev/shm", 0755);
    mount("devpts", "dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5");
    mount("mqueue", "dev/mqueue", "mqueue", quiet, NULL);
    mount("shm", "dev/shm", "tmpfs", quiet, "mode=1777,size=65536k");
    mount("sysfs", "sys", "sysfs", quiet | MS_RDONLY, NULL);
    for (size_t i = 0; i < sizeof devices / sizeof *devices; i++)
        mknod(devices[i].name, S_IFCHR | 0666, makedev(1, devices[i].minor));
    mknod("dev/tty", S_IFCHR | 0666, makedev(5, 0));
    for (size_t i = 0; i < sizeof links / sizeof *links; i++)
        if (symlink(links[i][0], links[i][1])) die(links[i][1]);
}

static void hide_paths(void) {
    static const char *const read_only[] = {"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"};
    static const char *const masked[] = {"/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                                         "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi",
                                         "/sys/firmware"};
    const unsigned long flags = MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NOEXEC | MS_NODEV;
    for (size_t i = 0; i < sizeof read_only / sizeof *read_only; i++)
        if (!mount(read_only[i], read_only[i], NULL, MS_BIND | MS_REC, NULL)) mount(NULL, read_only[i], NULL, flags, NULL);
    for (size_t i = 0; i < sizeof masked / sizeof *masked; i++)
        if (mount("/dev/null", masked[i], NULL, MS_BIND, NULL) && errno == ENOTDIR)
            mount("tmpfs", masked[i], "tmpfs", MS_RDONLY, NULL);
}

static void child(int gate, const char *root) {
    char go;
    if (read(gate, &go, 1) != 1) _exit(1);
    sethostname("floor", 5);
    make_root(root);
    int old = open("/", O_DIRECTORY | O_PATH | O_CLOEXEC);
    if (syscall(SYS_pivot_root, ".", ".")) die("pivot_root");
    if (fchdir(old) || mount(NULL, ".", NULL, MS_REC | MS_SLAVE, NULL) || umount2(".", MNT_DETACH) || chdir("/"))
        die("leave the old root");
    hide_paths();
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    execve("/bin/true", (char *[]){"/bin/true", NULL}, (char *[]){"PATH=/bin", NULL});
    die("execve");
}

/* The cgroup2 directory into which the child is born; -1 without one. */
static int unified_cgroup(void) {
    for (int i = 0; i < hierarchy_count; i++) {
        char dir[PATH * 2];
        if (!hierarchies[i].unified) continue;
        snprintf(dir, sizeof dir, "%s/%s/floor", hierarchies[i].path, cgroup_parent);
        return open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
    }
    return -1;
}

static void round_of(const char *lower, const char *work, unsigned long number) {
    char layer[PATH], root[PATH + 16], upper[PATH + 16], scratch[PATH + 16], options[PATH * 4];
    snprintf(layer, sizeof layer, "%s/floor-%lu", work, number);
    snprintf(root, sizeof root, "%s/root", layer);
    snprintf(upper, sizeof upper, "%s/upper", layer);
    snprintf(scratch, sizeof scratch, "%s/work", layer);
    if (mkdir(layer, 0755) || mkdir(root, 0755) || mkdir(upper, 0755) || mkdir(scratch, 0755)) die(layer);

    double start = microseconds();
    snprintf(options, sizeof options, "lowerdir=%s,upperdir=%s,workdir=%s", lower, upper, scratch);
    if (mount("overlay", root, "overlay", 0, options)) die("overlay");
    double mounted = microseconds();
    make_cgroups();
    double limited = microseconds();

    int gate[2], pidfd = -1, cgroup = unified_cgroup(), status;
    if (pipe2(gate, O_CLOEXEC)) die("pipe2");
    struct clone_args clone = {
        .flags = CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNET | CLONE_PIDFD |
                 (cgroup < 0 ? 0 : CLONE_INTO_CGROUP),
        .exit_signal = SIGCHLD,
        .pidfd = (unsigned long)&pidfd,
        .cgroup = cgroup < 0 ? 0 : (unsigned long)cgroup,
    };
    pid_t pid = (pid_t)syscall(SYS_clone3, &clone, sizeof clone);
    if (pid < 0) die("clone3");
    if (pid == 0) child(gate[0], root);
    join_cgroups(pid);
    if (write(gate[1], "x", 1) != 1) die("release the child");
    double joined = microseconds();
    if (waitpid(pid, &status, 0) != pid || status) die("the child");
    double ended = microseconds();

    close(gate[0]);
    close(gate[1]);
    close(pidfd);
    if (cgroup >= 0) close(cgroup);
    remove_cgroups();
    if (umount2(root, MNT_DETACH)) die("umount");
    double cleaned = microseconds();
    printf("%.1f %.1f %.1f %.1f %.1f\n", mounted - start, limited - mounted, joined - limited, ended - joined,
           cleaned - ended);
    fflush(stdout);
}

int main(int count, char **words) {
    if (count != 4) {
        fprintf(stderr, "usage: floor LOWER WORKDIR CGROUP\n");
        return 2;
    }
    cgroup_parent = words[3];
    find_hierarchies();
    char byte;
    for (unsigned long number = 0; read(0, &byte, 1) == 1; number++) round_of(words[1], words[2], number);
    return 0;
}
