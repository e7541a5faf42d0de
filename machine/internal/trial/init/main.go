// Command init is process 1 of a trial card. It does what the kernel command line says and reports
// it on the console.
package main

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"
)

func main() {
	_ = os.Mkdir("/proc", 0o755)
	_ = syscall.Mount("proc", "/proc", "proc", 0, "")
	line, _ := os.ReadFile("/proc/cmdline")
	fmt.Println("trial: up")
	switch do(string(line)) {
	case "off":
		end(syscall.LINUX_REBOOT_CMD_POWER_OFF)
	case "reboot":
		end(syscall.LINUX_REBOOT_CMD_RESTART)
	case "panic":
		os.Exit(3)
	case "disk":
		fmt.Println("trial: disk:", disk())
	case "echo":
		in := bufio.NewScanner(os.Stdin)
		for in.Scan() {
			fmt.Printf("trial: heard %q\n", in.Text())
		}
	}
	for {
		time.Sleep(time.Hour)
	}
}

func do(line string) string {
	for f := range strings.FieldsSeq(line) {
		if v, ok := strings.CutPrefix(f, "do="); ok {
			return v
		}
	}
	return ""
}

func end(how int) {
	fmt.Println("trial: end:", syscall.Reboot(how))
}
