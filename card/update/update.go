// Package update installs bundles on a running card, and has it upgrade its packages. The card checks and
// writes bundles, with its own RAUC. The host offers the file, restarts the card, waits for the outcome, and measures how long the
// card did not answer.
package update

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"connectrpc.com/connect"

	"github.com/toe-project/toe/card/client"
	"github.com/toe-project/toe/card/rom"
	"github.com/toe-project/toe/card/status"
	"github.com/toe-project/toe/card/store"
	"github.com/toe-project/toe/control"
	"github.com/toe-project/toe/control/cardpb"
	"github.com/toe-project/toe/internal/progress"
)

// ErrRefused means that the card did not take the bundle, and changed nothing.
var ErrRefused = errors.New("refused")

// ErrReverted means that the new firmware did not become healthy: the card runs the old one. `toe
// firmware history` has the reason.
var ErrReverted = errors.New("the update did not last")

var (
	errSlotBack  = fmt.Errorf("%w: the card went back to slot", ErrReverted)
	errImageBack = fmt.Errorf("%w: the card went back to the image before", ErrReverted)
)

// Options of an installation.
type Options struct {
	Source         string // path of a bundle, or its URL for the card
	AllowDowngrade bool
	NoReboot       bool          // install only; the card starts the new slot the next time
	Who            string        // the user, for the history
	WhenIdle       time.Duration // wait for a quiet moment at most this long; 0 does not wait
	Progress       *progress.Progress
}

// Result is what `toe firmware install --json` prints.
type Result struct {
	Name      string  `json:"name"`
	Slot      string  `json:"slot"` // that was installed
	Started   bool    `json:"started"`
	Version   string  `json:"version,omitempty"` // of the firmware that runs now
	Seconds   float64 `json:"install_seconds"`
	Outage    float64 `json:"outage_seconds"` // longest time without an answer
	Reopened  int64   `json:"connections_reopened"`
	BytesSent int64   `json:"bytes_sent"`
}

// IsURL reports whether a source is the card's to fetch.
func IsURL(source string) bool {
	return strings.HasPrefix(source, "http://") || strings.HasPrefix(source, "https://")
}

// CheckSource rejects a source that cannot be a bundle, before a card is asked.
func CheckSource(source string) error {
	if IsURL(source) {
		return nil
	}
	info, err := os.Stat(source)
	if err != nil {
		return fmt.Errorf("bundle %s: %w", source, errors.Unwrap(err))
	}
	if !info.Mode().IsRegular() || info.Size() == 0 {
		return fmt.Errorf("bundle %s: want a regular file that is not empty, or a URL", source)
	}
	return nil
}

// session is one installation on one card.
type session struct {
	card  *store.Card
	super *client.Client
	keys  control.Keys
	agent *control.Client
	o     Options
}

// Install installs a bundle on a running card and, unless o says otherwise, restarts the card and
// waits until it is healthy. Errors: ErrRefused, ErrReverted, client.ErrNotRunning.
func Install(ctx context.Context, c *store.Card, o Options) (*Result, error) {
	if err := CheckSource(o.Source); err != nil {
		return nil, err
	}
	s, st, err := begin(ctx, c, o)
	if err != nil {
		return nil, err
	}
	defer s.agent.Close()
	r := &Result{Name: c.Name}
	if err := s.install(ctx, r); err != nil {
		return nil, err
	}
	if o.NoReboot {
		return r, nil
	}
	return r, s.switchOver(ctx, st, r)
}

// begin connects to a card that is up.
func begin(ctx context.Context, c *store.Card, o Options) (*session, status.Status, error) {
	keys, err := control.LoadKeys(c.Paths.Keys())
	if err != nil {
		return nil, status.Status{}, err
	}
	s := &session{card: c, super: client.New(c), keys: keys, o: o}
	st, err := s.super.Status(ctx, 0)
	if err != nil {
		return nil, st, err
	}
	if st.State != status.Healthy && st.State != status.Degraded {
		return nil, st, fmt.Errorf("card %s is %s: want one that is up; see `toe status %[1]s`", c.Name, st.State)
	}
	// The address is the supervisor's to know: it dials over the link.
	s.agent, err = control.Dial(netip.AddrPortFrom(netip.IPv6Unspecified(), control.APIPort), keys, s.dial)
	return s, st, err
}

func (s *session) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	return s.super.Dial(ctx, control.APIPort)
}

// install has the card install the bundle.
func (s *session) install(ctx context.Context, r *Result) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	q := &cardpb.InstallRequest{AllowDowngrade: s.o.AllowDowngrade, Name: filepath.Base(s.o.Source)}
	var stage *progress.Stage
	var file *offer
	if IsURL(s.o.Source) {
		q.Url = s.o.Source
		stage = s.o.Progress.Stage("installing "+q.Name, 100)
	} else {
		if file, err = newOffer(ctx, s.o.Source, s.keys, s.dial); err != nil {
			return err
		}
		defer file.close()
		stage = s.o.Progress.Bytes("installing "+q.Name, file.size)
	}
	defer func() { stage.Fail(err) }()
	began := time.Now()
	stream, err := s.agent.Install(ctx, q)
	if err != nil {
		return s.refusal(err)
	}
	defer stream.Close()
	if file != nil {
		go showSent(ctx, stage, file)
	}
	for stream.Receive() {
		m := stream.Msg()
		stage.Note(m.Step)
		if file == nil {
			stage.Set(int64(m.Percent))
		}
		r.Slot = m.Slot
	}
	if err := stream.Err(); err != nil {
		return s.refusal(err)
	}
	if r.Slot == "" {
		return fmt.Errorf("card %s: the installation ended without a result; see `toe logs %[1]s`", s.card.Name)
	}
	r.Seconds = time.Since(began).Seconds()
	if err := rom.Record(s.card.Paths, status.FirmwareEvent{
		Time: time.Now(), Who: s.o.Who, What: "installed", Slot: r.Slot, Why: "asked for: " + s.o.Source,
		Outcome: "slot " + r.Slot + " is started next",
	}); err != nil {
		return err
	}
	if file != nil {
		r.BytesSent, r.Reopened = file.sent.Load(), max(file.broken.Load(), 0)
	}
	stage.Done("slot " + r.Slot)
	return nil
}

// showSent moves the bar by what the card has read: RAUC's own percentages stand still while it
// writes.
func showSent(ctx context.Context, stage *progress.Stage, file *offer) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			stage.Set(min(file.sent.Load(), file.size))
		}
	}
}

// refusal names the card and the bundle in the card's error.
func (s *session) refusal(err error) error {
	if errors.Is(err, context.Canceled) {
		return fmt.Errorf("card %s: bundle %s: %w; the running slot is untouched; "+
			"the same command again finishes", s.card.Name, s.o.Source, err)
	}
	var c *connect.Error
	if !errors.As(err, &c) {
		return fmt.Errorf("card %s: bundle %s: %w", s.card.Name, s.o.Source, err)
	}
	switch c.Code() {
	case connect.CodeFailedPrecondition, connect.CodeUnavailable:
		return fmt.Errorf("card %s: bundle %s: %w: %s", s.card.Name, s.o.Source, ErrRefused, c.Message())
	case connect.CodeUnimplemented:
		return fmt.Errorf("card %s: %w: it cannot install bundles; want firmware of edition debian", s.card.Name, ErrRefused)
	}
	return fmt.Errorf("card %s: bundle %s: %s", s.card.Name, s.o.Source, c.Message())
}
