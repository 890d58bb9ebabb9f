/* Stands between a process and libc (LD_PRELOAD). What the process does to files below
 * FAULTS_ROOT, and what it says on standard output, is written to FAULTS_LOG in the order in
 * which it happened; and the calls that FAULTS_FAIL names fail.
 *
 *   FAULTS_ROOT   absolute path of the data directory
 *   FAULTS_LOG    absolute path of the log; without it nothing is logged
 *   FAULTS_FAIL   "kinds first count errno": of the calls whose letter is in `kinds`, number
 *                 `first` (from 1) and the `count - 1` after it fail with `errno`; `C` is an
 *                 open that makes a file, `o` any other
 *
 * A record: letter (1) | failed (1) | fd (4) | offset (8) | length (8) | bytes; native order.
 *   C open: offset = flags O_CREAT 1, O_TRUNC 2, existed 4; bytes = path    K close
 *   W write at offset    T truncate to offset    S sync    D dup: offset = new fd
 *   R rename: bytes = from NUL to    U unlink or rmdir: path    M mkdir: path
 *   O said: bytes    X a call that the replay does not know: its name
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define FDS_MAX 65536

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static char root[PATH_MAX];
static size_t root_len;
static int log_fd = -1;
static unsigned char tracked[FDS_MAX];
static char fail_kinds[32];
static long fail_first, fail_count, fail_errno, calls;

static void start(void) {
    const char *text = getenv("FAULTS_ROOT");
    if (!text) return;
    snprintf(root, sizeof root, "%s", text);
    root_len = strlen(root);
    if ((text = getenv("FAULTS_FAIL")))
        sscanf(text, "%31s %ld %ld %ld", fail_kinds, &fail_first, &fail_count, &fail_errno);
    if ((text = getenv("FAULTS_LOG")))
        log_fd = syscall(SYS_openat, AT_FDCWD, text, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

static void enter(void) {
    pthread_once(&once, start);
    pthread_mutex_lock(&lock);
}

static void leave(void) { pthread_mutex_unlock(&lock); }

static void put(const struct iovec *parts, int count) {
    ssize_t want = 0;
    for (int i = 0; i < count; i++) want += parts[i].iov_len;
    /* A log with a hole in it would prove nothing. */
    if (syscall(SYS_writev, log_fd, parts, count) != want) abort();
}

static void note2(char kind, int failed, int fd, uint64_t offset, const void *a, size_t a_len, const void *b,
                  size_t b_len) {
    if (log_fd < 0) return;
    int keep = errno;
    unsigned char head[22];
    uint64_t len = a_len + b_len;
    head[0] = kind;
    head[1] = failed;
    memcpy(head + 2, &fd, 4);
    memcpy(head + 6, &offset, 8);
    memcpy(head + 14, &len, 8);
    struct iovec parts[3] = {{head, sizeof head}, {(void *)a, a_len}, {(void *)b, b_len}};
    put(parts, 3);
    errno = keep;
}

static void note(char kind, int failed, int fd, uint64_t offset, const void *bytes, size_t len) {
    note2(kind, failed, fd, offset, bytes, len, NULL, 0);
}

/* Whether this call is one that fails. */
static int fails(char kind) {
    if (!fail_count || !strchr(fail_kinds, kind)) return 0;
    long n = ++calls;
    if (n < fail_first || n - fail_first >= fail_count) return 0;
    errno = fail_errno;
    return 1;
}

/* The absolute path, where it is below the root. */
static const char *inside(int dir, const char *path, char *whole) {
    if (!root_len || !path) return NULL;
    if (path[0] == '/' || dir == AT_FDCWD) {
        snprintf(whole, PATH_MAX, "%s", path);
    } else {
        char link[64], at[PATH_MAX];
        snprintf(link, sizeof link, "/proc/self/fd/%d", dir);
        ssize_t len = readlink(link, at, sizeof at - 1);
        if (len < 0) return NULL;
        at[len] = 0;
        if (snprintf(whole, PATH_MAX, "%s/%s", at, path) >= PATH_MAX) return NULL;
    }
    if (strncmp(whole, root, root_len) || (whole[root_len] && whole[root_len] != '/')) return NULL;
    return whole;
}

static int is_tracked(int fd) { return fd >= 0 && fd < FDS_MAX && tracked[fd]; }

static int opened(int dir, const char *path, int flags, mode_t mode) {
    enter();
    char whole[PATH_MAX];
    const char *in = inside(dir, path, whole);
    int existed = in && !syscall(SYS_faccessat, AT_FDCWD, in, F_OK);
    if (in && fails(flags & O_CREAT && !existed ? 'C' : 'o')) {
        leave();
        return -1;
    }
    int fd = syscall(SYS_openat, dir, path, flags, mode);
    if (fd >= 0 && fd < FDS_MAX) {
        tracked[fd] = in != NULL;
        if (in) {
            uint64_t how = (flags & O_CREAT ? 1 : 0) | (flags & O_TRUNC ? 2 : 0) | (existed ? 4 : 0);
            note('C', 0, fd, how, in, strlen(in));
            if (flags & (O_SYNC | O_DSYNC)) note('X', 0, fd, 0, "O_SYNC", 6);
        }
    }
    leave();
    return fd;
}

#define MODE(flags)                                                                                                    \
    mode_t mode = 0;                                                                                                   \
    if ((flags) & (O_CREAT | O_TMPFILE)) {                                                                             \
        va_list list;                                                                                                  \
        va_start(list, flags);                                                                                         \
        mode = va_arg(list, mode_t);                                                                                   \
        va_end(list);                                                                                                  \
    }

int open(const char *path, int flags, ...) { MODE(flags) return opened(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags) return opened(AT_FDCWD, path, flags, mode); }
int openat(int dir, const char *path, int flags, ...) { MODE(flags) return opened(dir, path, flags, mode); }
int openat64(int dir, const char *path, int flags, ...) { MODE(flags) return opened(dir, path, flags, mode); }
int creat(const char *path, mode_t mode) { return opened(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }

int close(int fd) {
    enter();
    if (is_tracked(fd)) {
        tracked[fd] = 0;
        note('K', 0, fd, 0, NULL, 0);
    }
    int result = syscall(SYS_close, fd);
    leave();
    return result;
}

/* libc closes the descriptor by itself. */
int closedir(DIR *stream) {
    int (*real)(DIR *) = (int (*)(DIR *))dlsym(RTLD_NEXT, "closedir");
    enter();
    int fd = dirfd(stream);
    if (is_tracked(fd)) {
        tracked[fd] = 0;
        note('K', 0, fd, 0, NULL, 0);
    }
    int result = real(stream);
    leave();
    return result;
}

static int duplicated(int fd, int copy) {
    if (copy >= 0 && copy < FDS_MAX) {
        tracked[copy] = is_tracked(fd);
        if (tracked[copy]) note('D', 0, fd, copy, NULL, 0);
    }
    return copy;
}

static int controlled(int fd, int command, long argument) {
    enter();
    int result = syscall(SYS_fcntl, fd, command, argument);
    if (command == F_DUPFD || command == F_DUPFD_CLOEXEC) duplicated(fd, result);
    leave();
    return result;
}

#define ARGUMENT(command)                                                                                              \
    va_list list;                                                                                                      \
    va_start(list, command);                                                                                           \
    long argument = va_arg(list, long);                                                                                \
    va_end(list);

int fcntl(int fd, int command, ...) { ARGUMENT(command) return controlled(fd, command, argument); }
int fcntl64(int fd, int command, ...) { ARGUMENT(command) return controlled(fd, command, argument); }

int dup(int fd) {
    enter();
    int copy = duplicated(fd, syscall(SYS_dup, fd));
    leave();
    return copy;
}

/* Writes are made whole, so that a replay cuts them where it likes. */
static ssize_t written(int fd, const void *bytes, size_t len, int64_t at) {
    if (!root_len && at < 0) return syscall(SYS_write, fd, bytes, len);
    if (!is_tracked(fd)) {
        if (fd == STDOUT_FILENO) {
            enter();
            ssize_t said = syscall(SYS_write, fd, bytes, len);
            if (said > 0) note('O', 0, fd, 0, bytes, said);
            leave();
            return said;
        }
        return at < 0 ? syscall(SYS_write, fd, bytes, len) : syscall(SYS_pwrite64, fd, bytes, len, at);
    }
    enter();
    if (fails('W')) {
        leave();
        return -1;
    }
    int64_t offset = at;
    if (at < 0) {
        if (syscall(SYS_fcntl, fd, F_GETFL) & O_APPEND) {
            struct stat status;
            offset = fstat(fd, &status) ? 0 : status.st_size;
        } else {
            offset = syscall(SYS_lseek, fd, 0, SEEK_CUR);
        }
    }
    ssize_t done = at < 0 ? syscall(SYS_write, fd, bytes, len) : syscall(SYS_pwrite64, fd, bytes, len, at);
    if (done > 0) note('W', 0, fd, offset, bytes, done);
    leave();
    return done;
}

ssize_t write(int fd, const void *bytes, size_t len) {
    pthread_once(&once, start);
    return written(fd, bytes, len, -1);
}
ssize_t pwrite(int fd, const void *bytes, size_t len, off_t at) { return written(fd, bytes, len, at); }
ssize_t pwrite64(int fd, const void *bytes, size_t len, off64_t at) { return written(fd, bytes, len, at); }

ssize_t writev(int fd, const struct iovec *parts, int count) {
    ssize_t total = 0;
    for (int i = 0; i < count; i++) {
        if (!parts[i].iov_len) continue;
        ssize_t done = write(fd, parts[i].iov_base, parts[i].iov_len);
        if (done < 0) return total ? total : -1;
        total += done;
        if ((size_t)done < parts[i].iov_len) break;
    }
    return total;
}

static int truncated(int fd, off64_t len) {
    enter();
    int result = is_tracked(fd) && fails('T') ? -1 : syscall(SYS_ftruncate, fd, len);
    if (!result && is_tracked(fd)) note('T', 0, fd, len, NULL, 0);
    leave();
    return result;
}
int ftruncate(int fd, off_t len) { return truncated(fd, len); }
int ftruncate64(int fd, off64_t len) { return truncated(fd, len); }

/* The disk is the log: what is logged needs no real sync, and is a hundred times as fast without. */
static int synced(int fd, long call) {
    enter();
    int result = 0;
    if (is_tracked(fd)) {
        if (fails('S')) result = -1;
        note('S', result != 0, fd, 0, NULL, 0);
        if (!result && log_fd < 0) result = syscall(call, fd);
    } else {
        result = syscall(call, fd);
    }
    leave();
    return result;
}
int fsync(int fd) { return synced(fd, SYS_fsync); }
int fdatasync(int fd) { return synced(fd, SYS_fdatasync); }

static int renamed(int from_dir, const char *from, int to_dir, const char *to, unsigned flags) {
    enter();
    char a[PATH_MAX], b[PATH_MAX];
    const char *in = inside(from_dir, from, a);
    const char *in_to = inside(to_dir, to, b);
    int result = in && fails('R') ? -1 : syscall(SYS_renameat2, from_dir, from, to_dir, to, flags);
    if (!result && (in || in_to)) {
        if (in && in_to)
            note2('R', 0, -1, 0, a, strlen(a) + 1, b, strlen(b));
        else
            note('X', 0, -1, 0, "rename over the border", 22);
    }
    leave();
    return result;
}
int rename(const char *from, const char *to) { return renamed(AT_FDCWD, from, AT_FDCWD, to, 0); }
int renameat(int a, const char *from, int b, const char *to) { return renamed(a, from, b, to, 0); }
int renameat2(int a, const char *from, int b, const char *to, unsigned flags) { return renamed(a, from, b, to, flags); }

static int removed(int dir, const char *path, int flags) {
    enter();
    char whole[PATH_MAX];
    const char *in = inside(dir, path, whole);
    int result = in && fails('U') ? -1 : syscall(SYS_unlinkat, dir, path, flags);
    if (!result && in) note('U', 0, -1, 0, in, strlen(in));
    leave();
    return result;
}
int unlink(const char *path) { return removed(AT_FDCWD, path, 0); }
int unlinkat(int dir, const char *path, int flags) { return removed(dir, path, flags); }
int rmdir(const char *path) { return removed(AT_FDCWD, path, AT_REMOVEDIR); }

static int made(int dir, const char *path, mode_t mode) {
    enter();
    char whole[PATH_MAX];
    const char *in = inside(dir, path, whole);
    int result = in && fails('M') ? -1 : syscall(SYS_mkdirat, dir, path, mode);
    if (!result && in) note('M', 0, -1, 0, in, strlen(in));
    leave();
    return result;
}
int mkdir(const char *path, mode_t mode) { return made(AT_FDCWD, path, mode); }
int mkdirat(int dir, const char *path, mode_t mode) { return made(dir, path, mode); }

/* What the replay does not know must not go unnoticed. */
#define UNKNOWN(name)                                                                                                  \
    enter();                                                                                                           \
    note('X', 0, -1, 0, #name, sizeof #name - 1);                                                                      \
    leave();

int fallocate(int fd, int mode, off_t at, off_t len) {
    if (is_tracked(fd)) { UNKNOWN(fallocate) }
    return syscall(SYS_fallocate, fd, mode, at, len);
}
int fallocate64(int fd, int mode, off64_t at, off64_t len) { return fallocate(fd, mode, at, len); }
int posix_fallocate(int fd, off_t at, off_t len) { return fallocate(fd, 0, at, len) ? errno : 0; }
int posix_fallocate64(int fd, off64_t at, off64_t len) { return posix_fallocate(fd, at, len); }
int link(const char *from, const char *to) {
    char whole[PATH_MAX];
    if (inside(AT_FDCWD, to, whole)) { UNKNOWN(link) }
    return syscall(SYS_linkat, AT_FDCWD, from, AT_FDCWD, to, 0);
}
ssize_t copy_file_range(int from, off64_t *a, int to, off64_t *b, size_t len, unsigned flags) {
    if (is_tracked(to)) { UNKNOWN(copy_file_range) }
    return syscall(SYS_copy_file_range, from, a, to, b, len, flags);
}
ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t at) {
    ssize_t total = 0;
    for (int i = 0; i < count; i++) {
        ssize_t done = pwrite(fd, parts[i].iov_base, parts[i].iov_len, at + total);
        if (done < 0) return total ? total : -1;
        total += done;
        if ((size_t)done < parts[i].iov_len) break;
    }
    return total;
}
ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t at) { return pwritev(fd, parts, count, at); }
void *mmap(void *at, size_t len, int protection, int flags, int fd, off_t offset) {
    if (is_tracked(fd) && (flags & MAP_SHARED) && (protection & PROT_WRITE)) { UNKNOWN(mmap) }
    return (void *)syscall(SYS_mmap, at, len, protection, flags, fd, offset);
}
void *mmap64(void *at, size_t len, int protection, int flags, int fd, off64_t offset) {
    return mmap(at, len, protection, flags, fd, offset);
}
