// Command inside is the program that tests run in a cell: static, it does what its arguments say,
// one after the other, and prints each result.
package main

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	for _, arg := range os.Args[1:] {
		verb, value, _ := strings.Cut(arg, "=")
		try, ok := tries[verb]
		if !ok {
			fmt.Printf("inside: no verb %q\n", verb)
			os.Exit(2)
		}
		try(value)
	}
}

var tries = map[string]func(string){
	"ls":      list,
	"say":     func(s string) { fmt.Println(s) },
	"id":      func(string) { fmt.Println("pid", os.Getpid(), "uid", os.Getuid()) },
	"env":     func(string) { fmt.Println(strings.Join(os.Environ(), "\n")) },
	"write":   write,
	"mount":   func(dir string) { result("mount", unix.Mount("none", dir, "tmpfs", 0, "")) },
	"unshare": func(string) { result("unshare", unix.Unshare(unix.CLONE_NEWUSER)) },
	"socket":  socket,
	"fork":    fork,
	"data":    data,
	"fds":     descriptors,
	"spawn":   spawn,
	"sleep":   func(string) { time.Sleep(100 * time.Second) },
}

func result(what string, err error) {
	if err != nil {
		fmt.Printf("%s: %v\n", what, err)
		return
	}
	fmt.Println(what, "DONE")
}

func list(dir string) {
	entries, err := os.ReadDir(dir)
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	fmt.Println(dir, "has", strings.Join(names, " "), err)
}

// write writes PATH:BYTES zeros.
func write(value string) {
	path, size, _ := strings.Cut(value, ":")
	n, _ := strconv.Atoi(size)
	result("write "+path, os.WriteFile(path, make([]byte, n), 0o600))
}

func socket(string) {
	_, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	result("socket", err)
}

// fork tries to start so many children, and prints how many there were.
func fork(value string) {
	want, _ := strconv.Atoi(value)
	var children []int
	for range want {
		flags, stack := uintptr(unix.SIGCHLD), uintptr(0)
		if runtime.GOARCH == "s390x" { // clone(2) has them the other way round there
			flags, stack = stack, flags
		}
		pid, _, e := syscall.RawSyscall6(unix.SYS_CLONE, flags, stack, 0, 0, 0, 0)
		if e != 0 {
			fmt.Println("fork:", e)
			break
		}
		if pid == 0 {
			for { // no call of Go's runtime here: the child has one of its threads
				syscall.RawSyscall6(unix.SYS_PPOLL, 0, 0, 0, 0, 0, 0)
			}
		}
		children = append(children, int(pid))
	}
	for _, pid := range children {
		_ = unix.Kill(pid, unix.SIGKILL)
		_, _ = unix.Wait4(pid, nil, 0, nil)
	}
	fmt.Println("had", len(children), "children")
}

// data tries to get so many bytes of memory.
func data(value string) {
	n, _ := strconv.Atoi(value)
	var limit unix.Rlimit
	_ = unix.Getrlimit(unix.RLIMIT_DATA, &limit)
	fmt.Println("limit", limit.Cur)
	_, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	result("allocate", err)
}

// descriptors prints which of the first so many are open.
func descriptors(value string) {
	n, _ := strconv.Atoi(value)
	for fd := range n {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil {
			fmt.Println("has", fd)
		}
	}
}

// spawn starts this program once more with one argument, and does not wait.
func spawn(arg string) {
	_, err := syscall.ForkExec(os.Args[0], []string{os.Args[0], arg}, &syscall.ProcAttr{Files: []uintptr{0, 1, 2}})
	result("spawn", err)
}
