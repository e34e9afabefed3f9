"""Arguments of system calls that the kernel takes as 32 bits or less, whatever else the register holds.

A line's first word holds positions, the names that follow have such arguments there. Source: the declarations in the
kernel's ``include/linux/syscalls.h``; and clone(2), declared wider, whose flags the kernel cuts itself.
"""

from __future__ import annotations

_TEXT = """
0 accept alarm arch_prctl clock_adjtime clock_getres clock_gettime clock_settime clone close dup epoll_create
0 epoll_create1 eventfd exit exit_group fchdir fdatasync fgetxattr flistxattr fremovexattr fstat fstatfs fsync
0 ftruncate futimesat get_robust_list getgroups getitimer getpeername getpgid getrlimit getrusage getsid
0 getsockname inotify_init1 io_setup io_uring_setup iopl keyctl memfd_secret migrate_pages mlockall modify_ldt
0 mq_getsetattr mq_notify mq_timedreceive openat2 personality pkey_free prctl pread64 process_vm_readv
0 process_vm_writev pselect6 pwrite64 read readahead rt_sigaction rt_sigprocmask sched_get_priority_max
0 sched_get_priority_min sched_getparam sched_getscheduler sched_rr_get_interval sched_setparam select
0 set_mempolicy setfsgid setfsuid setgid setgroups setitimer setrlimit setuid signalfd syncfs sysfs timer_create
0 timer_delete timer_getoverrun timer_gettime timerfd_gettime umask userfaultfd ustat write
01 clock_nanosleep dup2 eventfd2 fallocate fanotify_init fchmod fcntl flock getpriority inotify_rm_watch ioctl
01 ioprio_get kexec_file_load kill landlock_restrict_self listen msgctl msgget pidfd_open prlimit64
01 process_mrelease rt_sigqueueinfo sched_getaffinity sched_setaffinity sched_setscheduler seccomp sendfile
01 setns setpgid setregid setreuid shmctl shutdown timer_settime timerfd_create timerfd_settime tkill
012 close_range dup3 epoll_ctl fchown fsmount getsockopt ioprio_set kcmp membarrier pidfd_getfd quotactl_fd
012 reboot rt_tgsigqueueinfo semctl semget setpriority setresgid setresuid socket socketpair tgkill
0123 io_uring_enter
0124 setsockopt
013 fanotify_mark io_uring_register landlock_add_rule pidfd_send_signal tee waitid
014 fsconfig
02 bind bpf connect epoll_pwait2 faccessat fchmodat finit_module fspick getdents getdents64 getxattrat
02 inotify_add_watch listxattrat lseek mkdirat mount_setattr open_by_handle_at open_tree open_tree_attr quotactl
02 recvmsg removexattrat renameat sched_setattr semop semtimedop sendmsg setxattrat shmat shmget syslog unlinkat
02 wait4
023 epoll_pwait epoll_wait faccessat2 fchmodat2 lsm_set_self_attr mknodat openat recvmmsg sched_getattr sendmmsg
023 statx
0234 fchownat
024 linkat move_mount renameat2
025 copy_file_range splice
03 accept4 cachestat fadvise64 lsm_get_self_attr mq_timedsend msgsnd newfstatat readlinkat recvfrom signalfd4
03 sync_file_range utimensat vmsplice
034 process_madvise
035 sendto
04 execveat file_getattr file_setattr fsetxattr msgrcv name_to_handle_at
05 move_pages
1 access chmod creat delete_module fsopen memfd_create mkdir pipe2 ppoll setdomainname sethostname swapon
1 symlinkat umount2
12 chown lchown mknod mq_open open poll
123 futex_requeue perf_event_open rseq
124 futex_waitv
125 futex
2 getrandom ioperm landlock_create_ruleset lsm_list_modules madvise map_shadow_stack mlock2 msync readlink
23 futex_wake
3 listmount listns pkey_mprotect request_key statmount
35 futex_wait
4 add_key lsetxattr setxattr
5 mbind preadv2 pwritev2
"""

#: Name of a 64-bit call -> positions.
INT_ARGS = {
    name: tuple(map(int, positions))
    for positions, *names in (line.split() for line in _TEXT.strip().split("\n"))
    for name in names
}
