/* Reads of one file fail as those of a broken disk do: EIO from a call, SIGBUS from a map. Locks of all files fail by any error.
   The files that are read or locked are listed.
   FAILING_PATH: the file. FAILING_LOG: where to list what is read, LOCKING_LOG what is locked. FAILING_LOCK: the number of the error.
   FAILING_TIMES: how often, else always. All are looked up at every call. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static int named(int fd, char path[PATH_MAX], const char *log)
{
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length <= 0)
        return 0;
    path[length] = 0;
    if (log && path[0] == '/') {
        int list = syscall(SYS_open, log, O_WRONLY | O_APPEND | O_CREAT, 0666);
        path[length] = '\n';
        syscall(SYS_write, list, path, length + 1);
        path[length] = 0;
        syscall(SYS_close, list);
    }
    return 1;
}

static int fails(int fd)
{
    char path[PATH_MAX];
    const char *wanted = getenv("FAILING_PATH"), *log = getenv("FAILING_LOG");
    if (fd < 0 || (!wanted && !log) || !named(fd, path, log))
        return 0;
    return wanted && !strcmp(path, wanted);
}

static int cannot_lock(int fd)
{
    static int failed;
    char path[PATH_MAX];
    const char *number = getenv("FAILING_LOCK"), *times = getenv("FAILING_TIMES"), *log = getenv("LOCKING_LOG");
    if (log)
        named(fd, path, log);
    if (!number || (times && failed >= atoi(times)))
        return 0;
    failed++;
    errno = atoi(number);
    return 1;
}

int flock(int fd, int operation)
{
    if (!(operation & LOCK_UN) && cannot_lock(fd))
        return -1;
    return syscall(SYS_flock, fd, operation);
}

int fcntl(int fd, int command, ...)
{
    va_list rest;
    va_start(rest, command);
    void *argument = va_arg(rest, void *);
    va_end(rest);
    int locks = command == F_SETLK || command == F_SETLKW || command == F_OFD_SETLK || command == F_OFD_SETLKW;
    if (locks && ((struct flock *)argument)->l_type != F_UNLCK && cannot_lock(fd))
        return -1;
    return syscall(SYS_fcntl, fd, command, argument);
}

int fcntl64(int fd, int command, ...) __attribute__((alias("fcntl")));

#define WRAP(type, name, arguments, call)                                                  \
    type name arguments                                                                    \
    {                                                                                      \
        static type(*real) arguments;                                                      \
        if (!real)                                                                         \
            real = dlsym(RTLD_NEXT, #name);                                                \
        if (fails(fd)) {                                                                   \
            errno = EIO;                                                                   \
            return -1;                                                                     \
        }                                                                                  \
        return real call;                                                                  \
    }

WRAP(ssize_t, read, (int fd, void *to, size_t size), (fd, to, size))
WRAP(ssize_t, pread, (int fd, void *to, size_t size, off_t at), (fd, to, size, at))
WRAP(ssize_t, pread64, (int fd, void *to, size_t size, off64_t at), (fd, to, size, at))
WRAP(ssize_t, readv, (int fd, const struct iovec *to, int count), (fd, to, count))
WRAP(ssize_t, preadv, (int fd, const struct iovec *to, int count, off_t at), (fd, to, count, at))
WRAP(ssize_t, preadv64, (int fd, const struct iovec *to, int count, off64_t at), (fd, to, count, at))
WRAP(ssize_t, preadv2, (int fd, const struct iovec *to, int count, off_t at, int flags), (fd, to, count, at, flags))
WRAP(ssize_t, preadv64v2, (int fd, const struct iovec *to, int count, off64_t at, int flags), (fd, to, count, at, flags))
WRAP(ssize_t, copy_file_range, (int fd, off64_t *from, int out, off64_t *to, size_t size, unsigned flags),
     (fd, from, out, to, size, flags))

ssize_t sendfile(int out, int fd, off_t *at, size_t size)
{
    static ssize_t (*real)(int, int, off_t *, size_t);
    if (!real)
        real = dlsym(RTLD_NEXT, "sendfile");
    if (fails(fd)) {
        errno = EIO;
        return -1;
    }
    return real(out, fd, at, size);
}

ssize_t sendfile64(int out, int fd, off64_t *at, size_t size)
{
    return sendfile(out, fd, (off_t *)at, size);
}

static void *map(void *place, size_t size, int protection, int flags, int fd, off_t at)
{
    if (fails(fd)) {
        int empty = memfd_create("empty", 0);
        void *found = (void *)syscall(SYS_mmap, place, size, protection, flags, empty, at);
        syscall(SYS_close, empty);
        return found;
    }
    return (void *)syscall(SYS_mmap, place, size, protection, flags, fd, at);
}

void *mmap(void *place, size_t size, int protection, int flags, int fd, off_t at)
{
    return map(place, size, protection, flags, fd, at);
}

void *mmap64(void *place, size_t size, int protection, int flags, int fd, off64_t at)
{
    return map(place, size, protection, flags, fd, at);
}
