package sandbox

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/psx"
)

// allThreads runs a system call of up to three arguments on every thread:
// capabilities, no_new_privs and the parent's death signal belong to threads.
// The three arguments after that are zero, which prctl(2) insists on.
func allThreads(nr, a, b, c uintptr) error {
	if _, _, e := psx.Syscall6(nr, a, b, c, 0, 0, 0); e != 0 {
		return e
	}
	return nil
}

// threadCall is a system call of up to three arguments, on every thread or on
// this one alone.
type threadCall func(nr, a, b, c uintptr) error

// thisThread is enough where the thread is about to execute another program:
// the others do not survive that.
func thisThread(nr, a, b, c uintptr) error {
	if _, _, e := unix.RawSyscall6(nr, a, b, c, 0, 0, 0); e != 0 {
		return e
	}
	return nil
}

// dropPrivileges changes the user where it may, and empties every capability
// set where it may not.
func dropPrivileges(o PumpOptions, r *Report) error {
	uid, gid := o.UID, o.GID
	if uid == 0 {
		uid = Nobody
	}
	if gid == 0 {
		gid = Nobody
	}
	if err := dropBounding(allThreads); err != nil {
		return err
	}
	if os.Geteuid() == 0 {
		switch {
		case !mapped("/proc/self/uid_map", uid) || !mapped("/proc/self/gid_map", gid):
			r.Note = fmt.Sprintf("user %d is not mapped in this user namespace: kept the namespace's own user without its capabilities", uid)
		default:
			if err := becomeUser(uid, gid); err != nil {
				return err
			}
		}
	}
	r.UID, r.GID = os.Getuid(), os.Getgid()
	if err := clearCapabilities(allThreads); err != nil {
		return err
	}
	if err := allThreads(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0); err != nil {
		return fmt.Errorf("prctl(PR_SET_NO_NEW_PRIVS): %w", err)
	}
	return nil
}

// becomeUser acts on all threads, through the syscall package.
func becomeUser(uid, gid int) error {
	if err := syscall.Setgroups(nil); err != nil {
		return fmt.Errorf("setgroups([]): %w", err)
	}
	if err := syscall.Setresgid(gid, gid, gid); err != nil {
		return fmt.Errorf("setresgid(%d): %w", gid, err)
	}
	if err := syscall.Setresuid(uid, uid, uid); err != nil {
		return fmt.Errorf("setresuid(%d): %w", uid, err)
	}
	return nil
}

// mapped reports whether id exists in a user namespace, from its uid_map or
// gid_map (user_namespaces(7)): lines of inside, outside, length.
func mapped(file string, id int) bool {
	data, err := os.ReadFile(file)
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(data)) {
		var in, out, n int64
		if _, err := fmt.Sscan(line, &in, &out, &n); err == nil && int64(id) >= in && int64(id)-in < n {
			return true
		}
	}
	return false
}

// dropBounding empties the bounding set, so that no file capability could ever give one back. It
// takes CAP_SETPCAP. Without it, no_new_privs alone keeps files from giving capabilities back.
func dropBounding(call threadCall) error {
	for c := uintptr(0); c <= 63; c++ {
		err := call(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, c, 0)
		switch err {
		case nil:
		case unix.EPERM: // no CAP_SETPCAP
			return nil
		case unix.EINVAL: // past the last capability that this kernel knows
			return nil
		default:
			return fmt.Errorf("prctl(PR_CAPBSET_DROP, %d): %w", c, err)
		}
	}
	return nil
}

// clearCapabilities empties the permitted, effective, inheritable and ambient
// sets (capabilities(7)).
func clearCapabilities(call threadCall) error {
	if err := call(unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0); err != nil {
		return fmt.Errorf("prctl(PR_CAP_AMBIENT_CLEAR_ALL): %w", err)
	}
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	if err := call(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&hdr)), uintptr(unsafe.Pointer(&none[0])), 0); err != nil {
		return fmt.Errorf("capset({}): %w", err)
	}
	return nil
}

// checkThreads reads the state of every thread from the kernel, because a right left on one thread
// is a right left to the process.
func checkThreads() error {
	files, err := filepath.Glob("/proc/self/task/*/status")
	if err != nil || len(files) == 0 {
		return nil // no /proc: the calls above reported success on all threads
	}
	for _, f := range files {
		if err := checkThread(f); err != nil {
			return err
		}
	}
	return nil
}

func checkThread(file string) error {
	f, err := os.Open(file)
	if os.IsNotExist(err) {
		return nil // the thread has ended
	}
	if err != nil {
		return nil // the dumpable flag has hidden it; as without /proc
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		key, val, _ := strings.Cut(s.Text(), ":")
		val = strings.TrimSpace(val)
		switch key {
		case "CapPrm", "CapEff", "CapInh", "CapAmb":
			if n, err := strconv.ParseUint(val, 16, 64); err != nil || n != 0 {
				return fmt.Errorf("%s: %s is %s after dropping privileges, must be 0", file, key, val)
			}
		case "NoNewPrivs":
			if val != "1" {
				return fmt.Errorf("%s: NoNewPrivs is %s, must be 1", file, val)
			}
		}
	}
	return nil
}
