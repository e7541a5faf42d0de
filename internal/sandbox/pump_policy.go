package sandbox

import "golang.org/x/sys/unix"

// prSetVMA is PR_SET_VMA (linux/prctl.h): the Go runtime names its mappings
// with it since Go 1.25.
const prSetVMA = 0x53564d41

// threadFlags are what clone(2) may carry: exactly a thread, never a process
// and never a namespace. The Go runtime and glibc ask for subsets of these.
const threadFlags = unix.CLONE_VM | unix.CLONE_FS | unix.CLONE_FILES | unix.CLONE_SIGHAND |
	unix.CLONE_THREAD | unix.CLONE_SYSVSEM | unix.CLONE_SETTLS | unix.CLONE_PARENT_SETTID |
	unix.CLONE_CHILD_CLEARTID | unix.CLONE_CHILD_SETTID | unix.CLONE_DETACHED

// pumpCalls work on descriptors the pump holds, on its own memory and on its
// own threads. The packet path comes first.
var pumpCalls = []uintptr{
	unix.SYS_READV, unix.SYS_WRITEV, unix.SYS_READ, unix.SYS_WRITE,
	unix.SYS_EPOLL_PWAIT, unix.SYS_FUTEX, unix.SYS_PPOLL,
	unix.SYS_RECVMSG, unix.SYS_SENDMSG, unix.SYS_SENDTO,
	unix.SYS_EPOLL_CTL, unix.SYS_EPOLL_CREATE1, unix.SYS_EPOLL_PWAIT2, unix.SYS_EVENTFD2,
	unix.SYS_NANOSLEEP, unix.SYS_CLOCK_NANOSLEEP, unix.SYS_CLOCK_GETTIME,
	unix.SYS_SCHED_YIELD, unix.SYS_SCHED_GETAFFINITY,
	unix.SYS_MUNMAP, unix.SYS_MREMAP, unix.SYS_BRK, unix.SYS_MADVISE, unix.SYS_MINCORE,
	unix.SYS_SET_ROBUST_LIST, unix.SYS_RSEQ, unix.SYS_SIGALTSTACK,
	unix.SYS_RT_SIGACTION, unix.SYS_RT_SIGPROCMASK, unix.SYS_RT_SIGRETURN,
	unix.SYS_GETPID, unix.SYS_GETTID, unix.SYS_EXIT, unix.SYS_EXIT_GROUP,
	unix.SYS_CLOSE, unix.SYS_FSTAT, unix.SYS_RESTART_SYSCALL, unix.SYS_GETRANDOM,
	// The Go runtime re-reads its CPU limit from a cgroup file that it opened
	// at start (Go 1.25), so a read at an offset of a held descriptor.
	unix.SYS_PREAD64,
}

// pumpPolicy is the pump's allow list; pid is its own process. A disk's worker has a few calls more.
// Deliberately missing: open, socket, connect, execve, ioctl, ptrace, kill,
// every way to gain a descriptor but recvmsg from a socket it already holds,
// and every mapping that could be run.
func pumpPolicy(pid int, disk *DiskFile) Policy {
	p := Policy{Default: Kill, Foreign: Kill}
	for _, nr := range append(append([]uintptr{}, pumpCalls...), pumpCallsArch...) {
		p.Rules = append(p.Rules, Rule{Nr: nr, Do: Allow})
	}
	noExec := []Cond{{Arg: 2, Mask: unix.PROT_EXEC, Values: []uint32{0}}}
	p.Rules = append(p.Rules,
		mmapRule(noExec),
		Rule{Nr: unix.SYS_MPROTECT, Conds: noExec, Do: Allow, Else: Kill},
		Rule{Nr: unix.SYS_CLONE, Do: Allow, Else: Kill, Conds: []Cond{
			{Arg: cloneArg, Mask: unix.CLONE_THREAD | unix.CLONE_VM, Values: []uint32{unix.CLONE_THREAD | unix.CLONE_VM}, High: true},
			{Arg: cloneArg, Mask: ^uint32(threadFlags), Values: []uint32{0}},
		}},
		// clone3 hides its flags in memory, where a filter cannot look:
		// callers fall back to clone.
		Rule{Nr: unix.SYS_CLONE3, Do: Errno(unix.ENOSYS)},
		Rule{Nr: unix.SYS_TGKILL, Do: Allow, Else: Kill,
			Conds: []Cond{{Arg: 0, Values: []uint32{uint32(pid)}}}},
		Rule{Nr: unix.SYS_PRCTL, Do: Allow, Else: Kill,
			Conds: []Cond{{Arg: 0, Values: []uint32{prSetVMA}}}},
	)
	for _, nr := range fcntlCalls {
		p.Rules = append(p.Rules, Rule{Nr: nr, Do: Allow, Else: Kill,
			Conds: []Cond{{Arg: 1, Values: []uint32{unix.F_GETFL, unix.F_SETFL, unix.F_GETFD, unix.F_GET_SEALS}}}})
	}
	if disk != nil {
		p.Rules = append(p.Rules, disk.rules()...)
	}
	return p
}

// mmapRule allows no mapping that could be run. On s390x the arguments of mmap(2) are in memory,
// where a filter cannot look: see refuseExec.
func mmapRule(noExec []Cond) Rule {
	if mmapBlock {
		return Rule{Nr: sysMmap, Do: Allow}
	}
	return Rule{Nr: sysMmap, Conds: noExec, Do: Allow, Else: Kill}
}

// rules allows what a disk's worker does, on its file only.
func (d *DiskFile) rules() (rules []Rule) {
	calls := []uintptr{unix.SYS_PREADV}
	if !d.ReadOnly {
		calls = append(calls, unix.SYS_PWRITEV, unix.SYS_FDATASYNC, unix.SYS_FALLOCATE)
	}
	for _, nr := range calls {
		rules = append(rules, Rule{Nr: nr, Do: Allow, Else: Kill,
			Conds: []Cond{{Arg: 0, Values: []uint32{uint32(d.FD)}}}})
	}
	return rules
}
