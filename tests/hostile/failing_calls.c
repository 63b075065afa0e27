/* Reads of one file fail as those of a broken disk do: EIO from a call, SIGBUS from a map. The files that are read are listed.
   FAILING_PATH: the file. FAILING_LOG: where to list. Both are looked up at every call. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static int fails(int fd)
{
    char link[64], path[PATH_MAX];
    const char *wanted = getenv("FAILING_PATH"), *log = getenv("FAILING_LOG");
    if (fd < 0 || (!wanted && !log))
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
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
    return wanted && !strcmp(path, wanted);
}

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
