package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
)

// exec fetches from a web server of the world by its name. The server sees the card, not this host.
func (j *journey) exec(t *testing.T) {
	for _, host := range []string{worldAddr, worldName} {
		r := j.runEnv(t, quick, []string{roleVariable + "=get"}, 0, "exec", "card0", "--", self, "http://"+host+"/")
		if r.out != cardAddr {
			t.Errorf("http://%s/ was asked by %q; want the card's %s", host, r.out, cardAddr)
		}
	}
	r := j.run(t, quick, 0, "exec", "--", "ip", "-j", "link")
	var links []struct {
		Name string `json:"ifname"`
	}
	if err := json.Unmarshal([]byte(r.out), &links); err != nil {
		t.Fatal(err)
	}
	if len(links) != 2 || links[0].Name != "lo" || links[1].Name != "toe0" {
		t.Errorf("interfaces under exec: %+v; want the loopback and the card alone", links)
	}
}

func (j *journey) execEnds(t *testing.T) {
	for _, c := range []struct {
		words []string
		want  int
	}{
		{[]string{"true"}, 0},
		{[]string{"sh", "-c", "exit 7"}, 7},
		{[]string{"sh", "-c", "kill -TERM $$"}, 128 + 15},
		{[]string{"sh", "-c", "kill -KILL $$"}, 128 + 9},
		{[]string{"te-no-such-program"}, 127},
		{[]string{"/etc/passwd"}, 126},
	} {
		j.run(t, quick, c.want, append([]string{"exec", "card0", "--"}, c.words...)...)
	}
	for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGUSR1} {
		j.execSignal(t, s)
	}
}

// execSignal sends toe a signal. The command gets it.
func (j *journey) execSignal(t *testing.T, s syscall.Signal) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), quick)
	defer cancel()
	script := fmt.Sprintf("trap 'echo got; exit 9' %d; echo ready; while :; do sleep 0.05; done", s)
	cmd := j.command(ctx, "exec", "card0", "--", "sh", "-c", script)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(out)
	if line, err := lines.ReadString('\n'); err != nil || line != "ready\n" {
		t.Errorf("before %s: %q, %v", s, line, err)
	}
	_ = cmd.Process.Signal(s)
	line, _ := lines.ReadString('\n')
	_ = cmd.Wait()
	if line != "got\n" || cmd.ProcessState.ExitCode() != 9 {
		t.Errorf("%s to toe: the command says %q, exit status %d; want got and 9", s, line, cmd.ProcessState.ExitCode())
	}
}

func (j *journey) ssh(t *testing.T) {
	r := j.run(t, quick, 0, "ssh", "--", "uname", "-a")
	if !strings.HasPrefix(r.out, "Linux card0 "+j.card.Firmware.Kernel+" ") {
		t.Errorf("uname -a on the card: %q; status says kernel %s", r.out, j.card.Firmware.Kernel)
	}
	j.run(t, quick, 5, "ssh", "card0", "--", "exit 5")
	j.run(t, quick, 0, "ssh", "--", "echo 'a  b' | grep -q 'a  b'")
	j.run(t, quick, 1, "ssh", "--", "test", "a  b", "=", "a b")
	ctx, cancel := context.WithTimeout(context.Background(), quick)
	defer cancel()
	cmd := j.command(ctx, "ssh", "--", "sha256sum")
	cmd.Stdin = io.LimitReader(noise(7), 1<<20)
	out, err := cmd.Output()
	want := sum(io.LimitReader(noise(7), 1<<20))
	if err != nil || !strings.HasPrefix(string(out), want) {
		t.Errorf("1 MiB through ssh: %v: %q; want %s", err, out, want)
	}
}

// console types on the card's console through a terminal, and leaves.
func (j *journey) console(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), quick)
	defer cancel()
	cmd := j.command(ctx, "console")
	terminal, err := pty.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	defer terminal.Close()
	text := make(chan string, 1024)
	go readAll(terminal, text)
	if _, err := terminal.WriteString("\necho con$((40+2))sole\n"); err != nil {
		t.Fatal(err)
	}
	expect(t, text, "con42sole")
	if _, err := terminal.Write([]byte{0x1d}); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("after Ctrl-]: %v", err)
	}
}

func readAll(f *os.File, text chan<- string) {
	defer close(text)
	buf := make([]byte, 4096)
	for {
		n, err := f.Read(buf)
		if n > 0 {
			text <- string(buf[:n])
		}
		if err != nil {
			return
		}
	}
}

// expect reads until it has seen want.
func expect(t *testing.T, text <-chan string, want string) {
	t.Helper()
	late := time.After(quick)
	all := ""
	for !strings.Contains(all, want) {
		select {
		case more, ok := <-text:
			if !ok {
				t.Fatalf("it ended before %q came: %q", want, all)
			}
			all += more
		case <-late:
			t.Fatalf("waited %s for %q: %q", quick, want, all)
		}
	}
}

// logs checks that the card's console output is shown, also later output.
func (j *journey) logs(t *testing.T) {
	for _, line := range strings.Split(strings.TrimSpace(j.run(t, quick, 0, "logs", "--json").out), "\n") {
		var l struct {
			Text   string    `json:"text"`
			Source string    `json:"source"`
			Time   time.Time `json:"time"`
		}
		if err := json.Unmarshal([]byte(line), &l); err != nil || l.Source == "" || l.Time.IsZero() {
			t.Fatalf("logs --json: %q: %+v, %v", line, l, err)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), quick)
	defer cancel()
	cmd := j.command(ctx, "logs", "-f", "-n", "1")
	out, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd.Stdout = w
	err = cmd.Start()
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	text := make(chan string, 1024)
	go readAll(out, text)
	expect(t, text, "\n")
	j.run(t, quick, 0, "ssh", "--", "echo word-of-the-journey > /dev/kmsg")
	expect(t, text, "word-of-the-journey")
	_ = cmd.Process.Signal(syscall.SIGINT)
	_ = cmd.Wait()
}
