/* Makes the n-th operation on files below one folder fail, or kills the process there.
 *
 * Preloaded into the unchanged program, so that what is tested is what runs. A control file, mapped into
 * memory, is shared with the test: how many operations there were, from which to which they fail, and how.
 * Built by the tests: cc -shared -fPIC -o faults.so faults.c -ldl
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

struct control {
    _Atomic long count; /* operations so far */
    _Atomic long from;  /* the first that fails; 0 for none */
    _Atomic long until; /* the first after it that does not */
    _Atomic long how;   /* an errno, or -1: killed */
};

static struct control *control;
static const char *root;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("FAULTS_CONTROL");
    root = getenv("FAULTS_BELOW");
    if (!path || !root) return;
    int (*real_open)(const char *, int, ...) = dlsym(RTLD_NEXT, "open");
    int fd = real_open(path, O_RDWR);
    if (fd < 0) return;
    void *mapped = mmap(0, sizeof(struct control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (mapped != MAP_FAILED) control = mapped;
}

/* Counts an operation; whether it fails. */
static int fails(void) {
    long n = atomic_fetch_add(&control->count, 1) + 1;
    long from = atomic_load(&control->from), until = atomic_load(&control->until);
    if (!from || n < from || n >= until) return 0;
    long how = atomic_load(&control->how);
    if (how < 0) kill(getpid(), SIGKILL);
    errno = (int)how;
    return 1;
}

static int below(const char *path) {
    return control && path && !strncmp(path, root, strlen(root));
}

static int fd_below(int fd) {
    if (!control) return 0;
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n <= 0) return 0;
    path[n] = 0;
    return below(path);
}

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

ssize_t write(int fd, const void *bytes, size_t n) {
    REAL(ssize_t, "write", int, const void *, size_t);
    if (n && fd_below(fd) && fails()) {
        /* As a disk does that fills up: a part is there already. */
        if (errno == ENOSPC && n > 1) { real(fd, bytes, n / 2); errno = ENOSPC; }
        return -1;
    }
    return real(fd, bytes, n);
}
ssize_t writev(int fd, const struct iovec *v, int n) {
    REAL(ssize_t, "writev", int, const struct iovec *, int);
    return fd_below(fd) && fails() ? -1 : real(fd, v, n);
}
ssize_t pwrite(int fd, const void *bytes, size_t n, off_t at) {
    REAL(ssize_t, "pwrite", int, const void *, size_t, off_t);
    return fd_below(fd) && fails() ? -1 : real(fd, bytes, n, at);
}
ssize_t pwrite64(int fd, const void *bytes, size_t n, off64_t at) {
    REAL(ssize_t, "pwrite64", int, const void *, size_t, off64_t);
    return fd_below(fd) && fails() ? -1 : real(fd, bytes, n, at);
}
int fsync(int fd) {
    REAL(int, "fsync", int);
    return fd_below(fd) && fails() ? -1 : real(fd);
}
int fdatasync(int fd) {
    REAL(int, "fdatasync", int);
    return fd_below(fd) && fails() ? -1 : real(fd);
}
int ftruncate64(int fd, off64_t n) {
    REAL(int, "ftruncate64", int, off64_t);
    return fd_below(fd) && fails() ? -1 : real(fd, n);
}
int rename(const char *from, const char *to) {
    REAL(int, "rename", const char *, const char *);
    return below(to) && fails() ? -1 : real(from, to);
}
int mkdir(const char *path, mode_t mode) {
    REAL(int, "mkdir", const char *, mode_t);
    return below(path) && fails() ? -1 : real(path, mode);
}
int unlink(const char *path) {
    REAL(int, "unlink", const char *);
    return below(path) && fails() ? -1 : real(path);
}
int unlinkat(int dir, const char *path, int flags) {
    REAL(int, "unlinkat", int, const char *, int);
    return (below(path) || fd_below(dir)) && fails() ? -1 : real(dir, path, flags);
}
#define OPENS(name) \
    int name(const char *path, int flags, ...) { \
        va_list rest; va_start(rest, flags); mode_t mode = va_arg(rest, mode_t); va_end(rest); \
        REAL(int, #name, const char *, int, ...); \
        return (flags & (O_CREAT | O_WRONLY | O_RDWR)) && below(path) && fails() ? -1 : real(path, flags, mode); \
    }
OPENS(open)
OPENS(open64)
