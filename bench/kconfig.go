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

// interruptsApart reports whether the host's kernel accounts the time of interrupts separately from
// the threads that they interrupt (CONFIG_IRQ_TIME_ACCOUNTING). If the configuration is unknown,
// the answer is no: a thread's time then includes the interrupts on top of it.
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
