package bench

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// interruptsApart says whether the host's kernel was built to count the time
// of interrupts apart from the threads that they interrupt
// (CONFIG_IRQ_TIME_ACCOUNTING). A kernel that does not tell counts as one that
// does not: then a thread's time holds what ran on top of it.
func interruptsApart() bool {
	return strings.Contains("\n"+kernelConfig(), "\nCONFIG_IRQ_TIME_ACCOUNTING=y\n")
}

func kernelConfig() string {
	if f, err := os.Open("/proc/config.gz"); err == nil {
		defer f.Close()
		if z, err := gzip.NewReader(bufio.NewReader(f)); err == nil {
			const most = 4 << 20
			text, _ := io.ReadAll(io.LimitReader(z, most))
			return string(text)
		}
	}
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return ""
	}
	text, _ := os.ReadFile("/boot/config-" + string(bytes.TrimRight(u.Release[:], "\x00")))
	return string(text)
}
