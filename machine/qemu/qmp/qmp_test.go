package qmp

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

const greeting = `{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": ""}, "capabilities": ["oob"]}}` + "\n"

// play is a QEMU that sends first, and after the first command sends then.
func play(t *testing.T, first, then string) (*Client, error) {
	t.Helper()
	ours, theirs := net.Pipe()
	go func() {
		defer theirs.Close()
		if _, err := io.WriteString(theirs, first); err != nil {
			return
		}
		if _, err := bufio.NewReader(theirs).ReadString('\n'); err != nil {
			return
		}
		_, _ = io.WriteString(theirs, then)
	}()
	c, err := Handshake(ours, time.Now().Add(2*time.Second))
	if err == nil {
		t.Cleanup(c.Close)
	}
	return c, err
}

func TestReasons(t *testing.T) {
	const ok = `{"return": {}}` + "\n"
	for _, c := range []struct{ name, then, want string }{
		{"power off", ok + `{"event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-shutdown"}}` + "\n", GuestShutdown},
		{"reset", `{"event":"RESUME"}` + "\n" + ok + `{"event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-reset"}}` + "\n", GuestReset},
		{"panic, then reset", ok + `{"event":"GUEST_PANICKED"}` + "\n" + `{"event": "SHUTDOWN", "data": {"reason": "guest-reset"}}` + "\n", GuestPanic},
		{"nothing", ok, ""},
		{"rubbish after", ok + "\x00\xff\n", ""},
		{"data of another shape", ok + `{"event": "SHUTDOWN", "data": {"reason": 7}}` + "\n", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			client, err := play(t, greeting, c.then)
			if err != nil {
				t.Fatal(err)
			}
			select {
			case <-client.Done():
			case <-time.After(2 * time.Second):
				t.Fatal("conversation did not end")
			}
			if got := client.Reason(); got != c.want {
				t.Errorf("reason %q, want %q", got, c.want)
			}
		})
	}
}

func TestHostile(t *testing.T) {
	for _, c := range []struct{ name, first, then, want string }{
		{"nothing", "", "", "greeting"},
		{"no JSON", "hello\n", "", "greeting"},
		{"no greeting", `{"return": {}}` + "\n", "", "no greeting"},
		{"endless line", strings.Repeat("x", 2*MaxLine), "", "greeting"},
		{"refused", greeting, `{"error": {"class": "GenericError", "desc": "no"}}` + "\n", "GenericError: no"},
		{"events without end", greeting, strings.Repeat(`{"event":"RESUME"}`+"\n", 200), "100 lines"},
		{"ends", greeting, "", "qmp_capabilities"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := play(t, c.first, c.then)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
		})
	}
}

func TestQuit(t *testing.T) {
	ours, theirs := net.Pipe()
	got := make(chan string, 1)
	go func() {
		in := bufio.NewReader(theirs)
		fmt.Fprint(theirs, greeting)
		_, _ = in.ReadString('\n')
		fmt.Fprint(theirs, `{"return": {}}`+"\n")
		line, _ := in.ReadString('\n')
		got <- line
		theirs.Close()
	}()
	c, err := Handshake(ours, time.Now().Add(2*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Quit(); err != nil {
		t.Fatal(err)
	}
	if line := <-got; line != `{"execute":"quit"}`+"\n" {
		t.Errorf("QEMU was sent %q", line)
	}
}

// FuzzConversation feeds arbitrary input to a client, which must neither panic nor hang.
func FuzzConversation(f *testing.F) {
	f.Add([]byte(greeting + `{"return": {}}` + "\n" + `{"event": "SHUTDOWN", "data": {"reason": "guest-reset"}}` + "\n"))
	f.Add([]byte(greeting + `{"error": null}` + "\n"))
	f.Add([]byte("\n\n{}\n[]\nnull\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		ours, theirs := net.Pipe()
		go func() { _, _ = io.Copy(io.Discard, theirs) }()
		go func() { _, _ = theirs.Write(data); theirs.Close() }()
		c, err := Handshake(ours, time.Now().Add(5*time.Second))
		if err != nil {
			return
		}
		<-c.Done()
		_ = c.Reason()
		c.Close()
	})
}
