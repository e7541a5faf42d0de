package agent

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/control"
	"github.com/toe-project/toe/control/cardpb"
)

// installPart installs bundles with the card's own RAUC. RAUC decides: it checks the signature
// against the card's keyring, compatible and version, and writes the slot.
type installPart struct {
	idle
	*env
	offers  *offers
	answers string     // folder of an administrator's answer
	busy    sync.Mutex // held by the one installation
	rauc    string     // the program
	why     string     // file in which the pre-install handler says why it refused
	stop    func()     // ends RAUC's service, and with it an installation
	// patience is how long an installation waits for another one.
	patience time.Duration
	// grace is how long a canceled installation has to end by itself.
	grace time.Duration
}

const (
	raucProgram = "/usr/bin/rauc"
	raucRefused = "/run/rauc/refused"
)

func newInstallPart(e *env) *installPart {
	p := &installPart{env: e, offers: newOffers(), answers: runDir, rauc: raucProgram, why: raucRefused, patience: 2 * stopLimit, grace: stopLimit}
	p.stop = p.stopRAUC
	return p
}

func (p *installPart) able() bool {
	_, err := os.Stat(p.rauc)
	return err == nil
}

func (p *installPart) status(out *cardpb.StatusResponse) {
	if p.able() {
		out.Capabilities = append(out.Capabilities, control.CapInstall)
	}
}

// installError is why an installation did not happen.
type installError struct {
	touched bool // the slot was marked bad, and perhaps written
	text    string
}

func (e *installError) Error() string { return e.text }

// code is that of the call's documentation.
func (e *installError) code() connect.Code {
	if e.touched {
		return connect.CodeAborted
	}
	return connect.CodeFailedPrecondition
}

// install installs what q names, and returns the slot that the card starts next. say is told of
// each step.
func (p *installPart) install(
	ctx context.Context, q *cardpb.InstallRequest, say func(percent uint32, step string),
) (slot string, err error) {
	if !p.able() {
		return "", connect.NewError(connect.CodeUnimplemented,
			errors.New("this card has no RAUC and no slots; want firmware of edition debian"))
	}
	if !p.begin(ctx) {
		return "", connect.NewError(connect.CodeUnavailable, errors.New("another installation is running"))
	}
	defer p.busy.Unlock()
	if p.config().ZeroTrust {
		if err := p.await(ctx, q, say); err != nil {
			return "", err
		}
	}
	source := q.Url
	if source == "" {
		relay, err := p.offers.newRelay(ctx)
		if err != nil {
			return "", err
		}
		defer relay.close()
		source = relay.url
	} else if err := checkSource(source); err != nil {
		return "", connect.NewError(connect.CodeInvalidArgument, err)
	}
	p.log.Sayf("install: %s begins", nameOfBundle(q))
	err = p.run(ctx, source, q.AllowDowngrade, say)
	if err != nil {
		p.log.Sayf("install: %s: %v", nameOfBundle(q), err)
		var failed *installError
		if errors.As(err, &failed) {
			return "", connect.NewError(failed.code(), failed)
		}
		return "", err
	}
	unix.Sync() // fw_setenv leaves the environment in memory: a reset would start the old slot
	slot, err = p.next(ctx)
	p.log.Sayf("install: %s is in slot %s, which starts next", nameOfBundle(q), slot)
	return slot, err
}

// begin waits for the end of an installation that was canceled a moment ago.
func (p *installPart) begin(ctx context.Context) bool {
	for until := time.Now().Add(p.patience); ; {
		if p.busy.TryLock() {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(50 * time.Millisecond):
		}
		if time.Now().After(until) {
			return false
		}
	}
}

func nameOfBundle(q *cardpb.InstallRequest) string {
	if q.Url != "" {
		return strconv.Quote(q.Url)
	}
	return "the host's " + strconv.Quote(q.Name)
}

// checkSource accepts what RAUC can stream. A file of the card is its admin's to install.
func checkSource(source string) error {
	u, err := url.Parse(source)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return fmt.Errorf("bundle %.200q: want an http or https URL", source)
	}
	return nil
}

// run runs `rauc install`, which asks RAUC's service.
func (p *installPart) run(
	ctx context.Context, source string, downgrade bool, say func(percent uint32, step string),
) error {
	_ = os.Remove(p.why)
	args := []string{"install"}
	if downgrade {
		args = append(args, "--ignore-version-limit")
	}
	cmd := exec.Command(p.rauc, append(args, "--", source)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer func() { _ = out.Close() }()
	cmd.Stdout, cmd.Stderr = w, w
	err = p.procs.start(cmd)
	_ = w.Close()
	if err != nil {
		return fmt.Errorf("rauc install: %w", err)
	}
	ended := make(chan struct{})
	var canceler sync.WaitGroup
	canceler.Go(func() {
		select {
		case <-ctx.Done():
			p.cancel(cmd.Process.Pid, ended)
		case <-ended:
		}
	})
	said := followRAUC(out, say)
	err = p.procs.wait(cmd)
	close(ended)
	canceler.Wait()
	if err == nil {
		return nil // also where it was canceled too late
	}
	if ctx.Err() != nil {
		return &installError{touched: said.writing, text: "canceled" + said.consequence()}
	}
	why, _ := os.ReadFile(p.why)
	return said.explain(strings.TrimSpace(string(why)))
}

// cancel ends an installation whose client is process pid. RAUC has no call for that. Without its
// network block device it cannot read the bundle, cleans up, and tells its client. Where that does not
// help its service is stopped: the bundle and the slot are free then.
func (p *installPart) cancel(pid int, ended <-chan struct{}) {
	end := time.After(p.grace)
	for {
		detachNBD("/sys/class/block", p.rauc)
		select {
		case <-ended:
			return
		case <-time.After(100 * time.Millisecond):
			continue
		case <-end:
		}
		_ = syscall.Kill(-pid, syscall.SIGKILL)
		p.stop()
		return
	}
}

// ioctlClearSock is NBD_CLEAR_SOCK (linux/nbd.h): requests in flight fail, and so does each later one.
const ioctlClearSock = 0xab04

// detachNBD detaches the network block devices in dir (/sys/class/block) that program attached.
func detachNBD(dir, program string) {
	paths, _ := filepath.Glob(filepath.Join(dir, "nbd*", "pid")) // there while it is attached
	for _, path := range paths {
		pid, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		exe, err := os.Readlink("/proc/" + strings.TrimSpace(string(pid)) + "/exe")
		if err != nil || exe != program {
			continue
		}
		f, err := os.OpenFile("/dev/"+filepath.Base(filepath.Dir(path)), os.O_RDONLY|unix.O_NONBLOCK, 0)
		if err != nil {
			continue
		}
		_ = unix.IoctlSetInt(int(f.Fd()), ioctlClearSock, 0)
		_ = f.Close()
	}
}

// stopLimit bounds the end of RAUC's service.
const stopLimit = 10 * time.Second

func (p *installPart) stopRAUC() {
	ctx, cancel := context.WithTimeout(context.Background(), stopLimit)
	defer cancel()
	if out, err := p.output(ctx, "systemctl", "stop", "rauc.service"); err != nil {
		p.log.Sayf("install: systemctl stop rauc.service: %v: %.200s", err, out)
	}
}

func (p *installPart) output(ctx context.Context, name string, args ...string) ([]byte, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer func() { _ = r.Close() }()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = w, w
	err = p.procs.start(cmd)
	_ = w.Close()
	if err != nil {
		return nil, err
	}
	out, _ := io.ReadAll(io.LimitReader(r, 1<<20))
	return out, p.procs.wait(cmd)
}

// next returns the slot that RAUC made the first.
func (p *installPart) next(ctx context.Context) (string, error) {
	out, err := p.output(ctx, p.rauc, "status", "--output-format=json")
	if err != nil {
		return "", fmt.Errorf("rauc status: %w: %.200s", err, out)
	}
	return primarySlot(out)
}

func primarySlot(text []byte) (string, error) {
	var st struct {
		Primary string                                  `json:"boot_primary"`
		Slots   []map[string]struct{ Bootname *string } `json:"slots"`
	}
	// RAUC's messages come before it.
	at := strings.IndexByte(string(text), '{')
	if at < 0 || json.Unmarshal(text[at:], &st) != nil {
		return "", fmt.Errorf("rauc status: %.200q: want JSON", text)
	}
	for _, s := range st.Slots {
		if slot, ok := s[st.Primary]; ok && slot.Bootname != nil {
			return *slot.Bootname, nil
		}
	}
	return "", fmt.Errorf("rauc status: no slot is called %.40q", st.Primary)
}

// raucSaid is what `rauc install` printed, as far as it counts.
type raucSaid struct {
	last    string // its last error
	writing bool   // it had begun to update slots
}

var raucStep = regexp.MustCompile(`^\s*([0-9]{1,3})%\s+(\S.*)$`)

// followRAUC reads the output to its end.
func followRAUC(r io.Reader, say func(percent uint32, step string)) (said raucSaid) {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		line := lines.Text()
		if text, ok := strings.CutPrefix(line, "LastError: "); ok {
			said.last = text
			continue
		}
		m := raucStep.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		percent, _ := strconv.ParseUint(m[1], 10, 32)
		if strings.HasPrefix(m[2], "Updating slots") {
			said.writing = true
		}
		say(uint32(min(percent, 100)), strings.TrimSuffix(m[2], " done."))
	}
	_, _ = io.Copy(io.Discard, r) // a line that was too long
	return said
}

func (s raucSaid) consequence() string {
	if s.writing {
		return "; the slot stays bad, the running one is untouched; the same command again finishes"
	}
	return "; nothing was changed"
}
