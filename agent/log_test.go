package agent

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"
)

func TestLogIsBounded(t *testing.T) {
	l := NewLog(io.Discard)
	long := strings.Repeat("x", 1000)
	for i := range 3000 {
		l.Printf("%d %s", i, long)
	}
	if l.bytes > logBytes || len(l.lines) > logBytes/1000 {
		t.Errorf("%d bytes in %d lines, want at most %d bytes", l.bytes, len(l.lines), logBytes)
	}
	lines, next, missed, _ := l.read(0, 10)
	if missed == 0 || len(lines) != 10 || next != missed+10 {
		t.Errorf("%d lines, next %d, missed %d", len(lines), next, missed)
	}
	if !strings.HasPrefix(lines[0].Text, fmt.Sprint(missed)) {
		t.Errorf("first line %.10q after %d missed", lines[0].Text, missed)
	}
	if at := l.tail(1); at != 2999 {
		t.Errorf("tail starts at %d, want 2999", at)
	}
	if lines, next, _, _ := l.read(3000, 10); len(lines) != 0 || next != 3000 {
		t.Errorf("read past the end: %d lines, next %d", len(lines), next)
	}
	if lines, _, _, _ := l.read(1<<40, 10); len(lines) != 0 {
		t.Errorf("read far past the end: %d lines", len(lines))
	}
}

func TestLogWakesReaders(t *testing.T) {
	l := NewLog(io.Discard)
	_, next, _, wake := l.read(0, 10)
	l.Printf("one")
	<-wake
	if lines, _, _, _ := l.read(next, 10); len(lines) != 1 || lines[0].Text != "one" {
		t.Errorf("read %v", lines)
	}
}

func TestLogIsClean(t *testing.T) {
	var console bytes.Buffer
	l := NewLog(&console)
	l.Sayf("a\x1b[2Jb\nc\xff\u009bd %s", strings.Repeat("y", 2*lineMax))
	got := l.lines[0].Text
	if strings.ContainsAny(got, "\x1b\n\u009b") || !strings.HasPrefix(got, "a?[2Jb c") || len(got) > lineMax+10 {
		t.Errorf("line %.40q of %d bytes", got, len(got))
	}
	if !strings.HasPrefix(console.String(), "toe-agent: a?[2Jb") {
		t.Errorf("console %.40q", console.String())
	}
}

func TestKernelText(t *testing.T) {
	for record, want := range map[string]string{
		"6,1,0,-;Linux version 7.2\n SUBSYSTEM=x\n": "Linux version 7.2",
		"30,2,5,-,caller=T1;a;b\n":                  "a;b",
		"nonsense":                                  "",
	} {
		if got, _ := kernelText(record); got != want {
			t.Errorf("%q: %q, want %q", record, got, want)
		}
	}
}
