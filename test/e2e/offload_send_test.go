package e2e

import (
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// playSend sends a file to a server with sendfile(2), and prints the kernel's counters of this
// program (/proc/PID/io) before and after.
func playSend(file, address string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	c, err := net.DialTimeout("tcp", address, 10*time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		return err
	}
	before, err := os.ReadFile("/proc/self/io")
	if err != nil {
		return err
	}
	if err := sendFile(raw, int(f.Fd()), size); err != nil {
		return err
	}
	after, err := os.ReadFile("/proc/self/io")
	if err != nil {
		return err
	}
	fmt.Printf("%s\n%s\n", strings.ReplaceAll(string(before), "\n", " "), strings.ReplaceAll(string(after), "\n", " "))
	return nil
}

type rawWriter interface {
	Write(func(fd uintptr) bool) error
}

func sendFile(raw rawWriter, from int, size int64) error {
	var failed error
	at := int64(0)
	err := raw.Write(func(fd uintptr) bool {
		for at < size {
			_, err := unix.Sendfile(int(fd), from, &at, int(min(size-at, 1<<30)))
			if err == unix.EAGAIN {
				return false
			}
			if err != nil {
				failed = err
				return true
			}
		}
		return true
	})
	if err == nil {
		err = failed
	}
	return err
}
