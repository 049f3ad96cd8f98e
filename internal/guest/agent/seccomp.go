// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// seccomp is the system call filter of every container. It allows what programs use and answers EPERM to the rest:
// loading kernel code, mounting, new namespaces, keyrings, tracing across users, setting clocks, raw hardware, io_uring
// and the calls that nobody needs any more. The filter holds for root in the container too. It knows the machine's own
// architecture only: 32-bit programs do not run, for their calls have other numbers and socketcall hides its arguments.
func seccomp() *specs.LinuxSeccomp {
	errno := uint(unix.EPERM)
	absent := uint(unix.ENOSYS)
	return &specs.LinuxSeccomp{
		DefaultAction:   specs.ActErrno,
		DefaultErrnoRet: &errno,
		Syscalls: append(sockets(), []specs.LinuxSyscall{
			{Names: strings.Fields(allowedCalls), Action: specs.ActAllow},
			{
				// New threads and processes, but no new namespaces. Flags are the first argument on x86.
				Names: []string{"clone"}, Action: specs.ActAllow,
				Args: []specs.LinuxSeccompArg{{Index: 0, Value: namespaceFlags, ValueTwo: 0, Op: specs.OpMaskedEqual}},
			},
			// The flags of clone3 lie in memory, out of a filter's sight; C libraries fall back to clone on ENOSYS.
			{Names: []string{"clone3"}, Action: specs.ActErrno, ErrnoRet: &absent},
			{
				// Execution domains: the ordinary one, the 32-bit ones, and asking.
				Names: []string{"personality"}, Action: specs.ActAllow,
				Args: []specs.LinuxSeccompArg{{Index: 0, Value: 0, Op: specs.OpEqualTo}},
			},
			{
				Names: []string{"personality"}, Action: specs.ActAllow,
				Args: []specs.LinuxSeccompArg{{Index: 0, Value: 0x8, Op: specs.OpEqualTo}},
			},
			{
				Names: []string{"personality"}, Action: specs.ActAllow,
				Args: []specs.LinuxSeccompArg{{Index: 0, Value: 0xffffffff, Op: specs.OpEqualTo}},
			},
		}...),
	}
}

// sockets allows the families that programs need and no other: a vsock would reach the host past the agent, a packet
// socket would see and forge what the other containers send, for they share the network. The filter sees 64 bits of an
// argument and the kernel takes 32, so the rules compare those; "not equal" cannot be said in this way, but that a bit
// differs can. The Internet family has an old type, SOCK_PACKET, of which the kernel makes a packet socket.
func sockets() []specs.LinuxSyscall {
	const (
		taken      = 0xffffffff
		sockPacket = 10
		typeBits   = 4 // what of the type is not flags
	)
	var rules []specs.LinuxSyscall
	allow := func(args ...specs.LinuxSeccompArg) {
		rules = append(rules, specs.LinuxSyscall{Names: []string{"socket"}, Action: specs.ActAllow, Args: args})
	}
	family := func(number uint64) specs.LinuxSeccompArg {
		return specs.LinuxSeccompArg{Index: 0, Value: taken, ValueTwo: number, Op: specs.OpMaskedEqual}
	}
	for _, number := range []uint64{unix.AF_UNIX, unix.AF_INET6, unix.AF_NETLINK} {
		allow(family(number))
	}
	for i := range typeBits {
		bit := uint64(1) << i
		allow(family(unix.AF_INET),
			specs.LinuxSeccompArg{Index: 1, Value: bit, ValueTwo: ^uint64(sockPacket) & bit, Op: specs.OpMaskedEqual})
	}
	return rules
}

const namespaceFlags = unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC |
	unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWTIME

// allowedCalls by what they are for. Names that a kernel or architecture does not have are passed over by the runtime.
const allowedCalls = `
	open openat openat2 creat close close_range read write readv writev pread64 pwrite64 preadv pwritev preadv2
	pwritev2 lseek dup dup2 dup3 fcntl flock ioctl fsync fdatasync sync syncfs sync_file_range truncate ftruncate
	fallocate fadvise64 readahead sendfile copy_file_range splice tee vmsplice cachestat

	access faccessat faccessat2 stat lstat fstat newfstatat statx statfs fstatfs getcwd chdir fchdir chroot readlink
	readlinkat getdents getdents64 mkdir mkdirat rmdir rename renameat renameat2 link linkat symlink symlinkat unlink
	unlinkat mknod mknodat chmod fchmod fchmodat fchmodat2 chown fchown lchown fchownat utime utimes futimesat
	utimensat umask

	getxattr lgetxattr fgetxattr getxattrat setxattr lsetxattr fsetxattr setxattrat listxattr llistxattr flistxattr
	listxattrat removexattr lremovexattr fremovexattr removexattrat name_to_handle_at

	poll ppoll select pselect6 epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_wait epoll_wait_old
	epoll_pwait epoll_pwait2 eventfd eventfd2 signalfd signalfd4 timerfd_create timerfd_settime timerfd_gettime
	inotify_init inotify_init1 inotify_add_watch inotify_rm_watch fanotify_mark pipe pipe2 io_setup io_submit
	io_getevents io_pgetevents io_cancel io_destroy

	mmap munmap mremap mprotect msync madvise mincore mlock mlock2 mlockall munlock munlockall brk remap_file_pages
	memfd_create memfd_secret membarrier pkey_alloc pkey_free pkey_mprotect map_shadow_stack mseal process_madvise
	process_mrelease get_mempolicy set_mempolicy mbind set_mempolicy_home_node

	fork vfork execve execveat exit exit_group wait4 waitid getpid getppid gettid getpgid getpgrp setpgid getsid
	setsid getpriority setpriority getrusage times sysinfo uname capget capset prctl arch_prctl modify_ldt
	set_tid_address set_robust_list get_robust_list rseq futex futex_waitv futex_wait futex_wake futex_requeue
	pidfd_open pidfd_send_signal pidfd_getfd ptrace process_vm_readv process_vm_writev kcmp seccomp
	landlock_create_ruleset landlock_add_rule landlock_restrict_self restart_syscall getcpu getrandom ioprio_get
	ioprio_set

	getuid geteuid getgid getegid getresuid getresgid getgroups setuid setgid setreuid setregid setresuid setresgid
	setgroups setfsuid setfsgid

	sched_yield sched_getaffinity sched_setaffinity sched_getattr sched_setattr sched_getparam sched_setparam
	sched_getscheduler sched_setscheduler sched_get_priority_max sched_get_priority_min sched_rr_get_interval
	getrlimit setrlimit prlimit64

	kill tkill tgkill rt_sigaction rt_sigprocmask rt_sigpending rt_sigsuspend rt_sigtimedwait rt_sigqueueinfo
	rt_tgsigqueueinfo rt_sigreturn sigaltstack pause alarm getitimer setitimer timer_create timer_settime
	timer_gettime timer_getoverrun timer_delete

	time gettimeofday clock_gettime clock_getres clock_nanosleep nanosleep adjtimex

	socketpair bind connect listen accept accept4 getsockname getpeername getsockopt setsockopt shutdown sendto
	sendmsg sendmmsg recvfrom recvmsg recvmmsg

	msgget msgsnd msgrcv msgctl semget semop semtimedop semctl shmget shmat shmdt shmctl mq_open mq_unlink
	mq_timedsend mq_timedreceive mq_notify mq_getsetattr
`
