package agent

import (
	"context"
	"errors"
	"os"
	"strings"
	"syscall"
)

// followKernel copies the kernel's log into the card's until ctx ends.
func followKernel(ctx context.Context, log *Log, path string) {
	f, err := os.Open(path)
	if err != nil {
		log.Printf("kernel log: %v", err)
		return
	}
	stop := context.AfterFunc(ctx, func() { _ = f.Close() })
	defer func() {
		if stop() {
			_ = f.Close()
		}
	}()
	buf := make([]byte, 8<<10) // a record never exceeds this: CONSOLE_EXT_LOG_MAX
	for {
		n, err := f.Read(buf)
		if errors.Is(err, syscall.EPIPE) {
			log.add(fromKernel, "(lines were lost: the kernel wrote faster than they were read)")
			continue
		}
		if err != nil || n == 0 {
			return
		}
		if text, ok := kernelText(string(buf[:n])); ok {
			log.add(fromKernel, text)
		}
	}
}

// kernelText takes the message out of a /dev/kmsg record, "prefix;text\n
// KEY=value\n" (Documentation/ABI/testing/dev-kmsg).
func kernelText(record string) (string, bool) {
	_, text, ok := strings.Cut(record, ";")
	if !ok {
		return "", false
	}
	text, _, _ = strings.Cut(text, "\n")
	return text, true
}
