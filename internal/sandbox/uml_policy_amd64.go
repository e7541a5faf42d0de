package sandbox

import "golang.org/x/sys/unix"

// hasUML reports whether there is a User-Mode Linux for this architecture.
const hasUML = true

// umlCalls is what User-Mode Linux 7.2 in its seccomp mode asks of the host,
// found with strace over boot, panic and power-off, and from the list of
// C library functions that arch/um/os-Linux calls. It is an allow list, but a wide one: the program maps
// executable memory, starts processes and executes, so it confines what a
// card's kernel can ask the *host's kernel* for, not what it can compute. The
// rest of the cell (an empty file system, no network, no privilege) is what
// makes those calls harmless. Not in it: ptrace (so seccomp=on is required),
// mount, setns, unshare, bpf, keyctl, perf, io_uring, userfaultfd, modules,
// kexec, process_vm_*, pidfd_*, every socket family but AF_UNIX.
var umlCalls = []uintptr{
	unix.SYS_READ, unix.SYS_WRITE, unix.SYS_READV, unix.SYS_WRITEV, unix.SYS_PREAD64, unix.SYS_PWRITE64,
	unix.SYS_RECVMSG, unix.SYS_SENDMSG, unix.SYS_RECVFROM, unix.SYS_SENDTO, unix.SYS_SENDMMSG, unix.SYS_RECVMMSG,
	unix.SYS_FUTEX, unix.SYS_EPOLL_CTL, unix.SYS_EPOLL_PWAIT, unix.SYS_EPOLL_CREATE1, unix.SYS_PPOLL, unix.SYS_EVENTFD2,
	unix.SYS_RT_SIGACTION, unix.SYS_RT_SIGPROCMASK, unix.SYS_RT_SIGRETURN, unix.SYS_RT_SIGSUSPEND, unix.SYS_RT_SIGTIMEDWAIT, unix.SYS_SIGALTSTACK,
	unix.SYS_SIGNALFD4, unix.SYS_RT_TGSIGQUEUEINFO, // waiting for the next event while idle; waking another CPU
	unix.SYS_TGKILL, unix.SYS_WAIT4, unix.SYS_EXIT, unix.SYS_EXIT_GROUP,
	unix.SYS_MMAP, unix.SYS_MUNMAP, unix.SYS_MREMAP, unix.SYS_MPROTECT, unix.SYS_MADVISE, unix.SYS_BRK, unix.SYS_MEMFD_CREATE,
	unix.SYS_TIMER_CREATE, unix.SYS_TIMER_SETTIME, unix.SYS_TIMER_GETTIME, unix.SYS_TIMER_DELETE, unix.SYS_TIMERFD_CREATE, unix.SYS_TIMERFD_SETTIME, unix.SYS_TIMERFD_GETTIME,
	unix.SYS_CLOCK_GETTIME, unix.SYS_CLOCK_NANOSLEEP, unix.SYS_NANOSLEEP, unix.SYS_GETTIMEOFDAY, unix.SYS_RESTART_SYSCALL,
	unix.SYS_GETPID, unix.SYS_GETPPID, unix.SYS_GETTID, unix.SYS_GETUID, unix.SYS_GETEUID, unix.SYS_GETGID, unix.SYS_GETEGID,
	unix.SYS_GETPGID, unix.SYS_SETPGID, unix.SYS_SETSID, unix.SYS_UNAME, unix.SYS_SYSINFO, unix.SYS_GETRANDOM,
	unix.SYS_SCHED_YIELD, unix.SYS_SCHED_GETAFFINITY, unix.SYS_SCHED_SETAFFINITY,
	unix.SYS_SET_TID_ADDRESS, unix.SYS_SET_ROBUST_LIST, unix.SYS_RSEQ, unix.SYS_PRCTL, unix.SYS_SECCOMP, unix.SYS_PRLIMIT64, unix.SYS_PERSONALITY,
	unix.SYS_EXECVE, unix.SYS_EXECVEAT,
	unix.SYS_OPENAT, unix.SYS_CLOSE, unix.SYS_CLOSE_RANGE, unix.SYS_DUP, unix.SYS_DUP3, unix.SYS_PIPE2, unix.SYS_SOCKETPAIR,
	unix.SYS_CONNECT, unix.SYS_SHUTDOWN, unix.SYS_GETSOCKOPT, unix.SYS_SETSOCKOPT, unix.SYS_GETSOCKNAME, unix.SYS_GETPEERNAME,
	unix.SYS_FSTAT, unix.SYS_FSTATFS, unix.SYS_STATFS, unix.SYS_FCNTL, unix.SYS_LSEEK, unix.SYS_FTRUNCATE, unix.SYS_FALLOCATE, unix.SYS_FCHMOD,
	unix.SYS_FSYNC, unix.SYS_FDATASYNC, unix.SYS_GETDENTS64, unix.SYS_READLINKAT, unix.SYS_FACCESSAT, unix.SYS_UNLINKAT, unix.SYS_MKDIRAT, unix.SYS_GETCWD,
}

// umlOldCalls are the older forms that the kernel's own start-up code and
// the C library of its build still use.
var umlOldCalls = []uintptr{
	unix.SYS_ARCH_PRCTL, unix.SYS_POLL, unix.SYS_EPOLL_WAIT, unix.SYS_EPOLL_CREATE, unix.SYS_SELECT, unix.SYS_SIGNALFD,
	unix.SYS_OPEN, unix.SYS_ACCESS, unix.SYS_STAT, unix.SYS_LSTAT, unix.SYS_NEWFSTATAT, unix.SYS_READLINK,
	unix.SYS_MKDIR, unix.SYS_RMDIR, unix.SYS_UNLINK, unix.SYS_DUP2, unix.SYS_PIPE, unix.SYS_GETPGRP, unix.SYS_TIME, unix.SYS_GETRLIMIT,
	unix.SYS_VFORK, unix.SYS_FORK, unix.SYS_MODIFY_LDT,
}

// FIONBIO and FIOCLEX (asm-generic/ioctls.h), which x/sys does not have.
const (
	fioNBIO = 0x5421
	fioCLEX = 0x5451
)

// namespaceFlags are refused in clone(2): the cell has no capability to use
// most of them, but a new user namespace would hand some out.
const namespaceFlags = unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET |
	unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP

// umlPolicy refuses with an error and never kills, for a reason: the kernel's own filter for its
// user processes traps every system call of a card's program, and of several filters the strictest
// answer wins. TRAP beats ERRNO, but a KILL here would beat TRAP, so that any program on the card
// could end its process by making a call we do not list.
func umlPolicy() Policy {
	refuse := Errno(unix.EPERM)
	p := Policy{Default: refuse, Foreign: Errno(unix.ENOSYS)}
	for _, nr := range append(append([]uintptr{}, umlCalls...), umlOldCalls...) {
		p.Rules = append(p.Rules, Rule{Nr: nr, Do: Allow})
	}
	p.Rules = append(p.Rules,
		Rule{Nr: unix.SYS_CLONE, Do: Allow, Else: refuse,
			Conds: []Cond{{Arg: 0, Mask: namespaceFlags, Values: []uint32{0}, High: true}}},
		Rule{Nr: unix.SYS_CLONE3, Do: Errno(unix.ENOSYS)},
		// After a panic the kernel sends itself SIGABRT until that fails. Here it is the init of
		// its PID namespace, which such a signal does not end (pid_namespaces(7)): it would retry
		// endlessly and burn a CPU. If the call is refused, it exits with status 127.
		Rule{Nr: unix.SYS_KILL, Do: Allow, Else: refuse,
			Conds: []Cond{{Arg: 1, Values: signalsBut(unix.SIGABRT)}}},
		Rule{Nr: unix.SYS_SOCKET, Do: Allow, Else: Errno(unix.EAFNOSUPPORT),
			Conds: []Cond{{Arg: 0, Values: []uint32{unix.AF_UNIX}}}},
		Rule{Nr: unix.SYS_IOCTL, Do: Allow, Else: Errno(unix.ENOTTY), Conds: []Cond{{Arg: 1, Values: []uint32{
			unix.TCGETS, unix.TCSETS, unix.TCSETSW, unix.TCSETSF, unix.TIOCGWINSZ, unix.TIOCINQ, fioNBIO, fioCLEX, unix.BLKGETSIZE64}}}},
	)
	return p
}

// signalsBut returns the numbers of all signals but one, and 0.
func signalsBut(not unix.Signal) []uint32 {
	var out []uint32
	for n := uint32(0); n <= 64; n++ {
		if n != uint32(not) {
			out = append(out, n)
		}
	}
	return out
}
