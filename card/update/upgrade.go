package update

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"connectrpc.com/connect"

	"github.com/toe-project/toe/card/rom"
	"github.com/toe-project/toe/card/status"
	"github.com/toe-project/toe/card/store"
	"github.com/toe-project/toe/control/cardpb"
)

// Upgraded is what `toe firmware upgrade --json` prints.
type Upgraded struct {
	Name     string   `json:"name"`
	Slot     string   `json:"slot"`     // that was upgraded; empty where no package is newer
	Packages int      `json:"packages"` // that changed
	Changes  []string `json:"changes"`  // a line each, at most 200
	Started  bool     `json:"started"`
	Version  string   `json:"version,omitempty"` // of the firmware that runs now
	Seconds  float64  `json:"upgrade_seconds"`
	Outage   float64  `json:"outage_seconds"` // longest time without an answer
}

// Upgrade has a running card upgrade its packages in its other slot and, unless o says otherwise, restarts
// the card and waits until it is healthy. Errors: ErrRefused, ErrReverted, client.ErrNotRunning.
func Upgrade(ctx context.Context, c *store.Card, o Options) (*Upgraded, error) {
	s, st, err := begin(ctx, c, o)
	if err != nil {
		return nil, err
	}
	defer s.agent.Close()
	u := &Upgraded{Name: c.Name, Changes: []string{}}
	if err := s.upgrade(ctx, u); err != nil {
		return nil, err
	}
	if o.NoReboot || u.Slot == "" {
		return u, nil
	}
	r := &Result{Name: c.Name, Slot: u.Slot}
	err = s.switchOver(ctx, st, r)
	u.Started, u.Version, u.Outage = r.Started, r.Version, r.Outage
	return u, err
}

func (s *session) upgrade(ctx context.Context, u *Upgraded) (err error) {
	stage := s.o.Progress.Stage("upgrading packages in the other slot", 100)
	defer func() { stage.Fail(err) }()
	began := time.Now()
	stream, err := s.agent.Upgrade(ctx, &cardpb.UpgradeRequest{})
	if err != nil {
		return s.upgradeError(err)
	}
	defer stream.Close()
	ended := false
	for stream.Receive() {
		m := stream.Msg()
		stage.Note(m.Step)
		stage.Set(int64(m.Percent))
		ended = m.Percent == 100
		u.Slot, u.Packages, u.Changes = m.Slot, int(m.Changed), m.Changes // all are in the last message
	}
	if err := stream.Err(); err != nil {
		return s.upgradeError(err)
	}
	if !ended {
		return fmt.Errorf("card %s: the upgrade ended without a result; see `toe logs %[1]s`", s.card.Name)
	}
	u.Seconds = time.Since(began).Seconds()
	if u.Slot == "" {
		stage.Done("no package is newer")
		return nil
	}
	stage.Done(fmt.Sprintf("%d packages, slot %s", u.Packages, u.Slot))
	return rom.Record(s.card.Paths, status.FirmwareEvent{
		Time: began, Who: s.o.Who, What: "upgraded", Slot: u.Slot, Why: "asked for",
		Outcome: fmt.Sprintf("%d packages: %s", u.Packages, strings.Join(u.Changes, ", ")),
	})
}

// upgradeError names the card in its error.
func (s *session) upgradeError(err error) error {
	if errors.Is(err, context.Canceled) {
		return fmt.Errorf("card %s: %w; the running slot is untouched; the same command again finishes", s.card.Name, err)
	}
	var c *connect.Error
	if !errors.As(err, &c) {
		return fmt.Errorf("card %s: %w", s.card.Name, err)
	}
	switch c.Code() {
	case connect.CodeFailedPrecondition, connect.CodeUnavailable:
		return fmt.Errorf("card %s: %w: %s", s.card.Name, ErrRefused, c.Message())
	case connect.CodeUnimplemented:
		return fmt.Errorf("card %s: %w: it cannot upgrade its packages: %s", s.card.Name, ErrRefused, c.Message())
	}
	return fmt.Errorf("card %s: %s", s.card.Name, c.Message())
}

// Packages compares the packages of a running card with those of its image, and lists pending updates. With
// refresh the card reads the lists of its mirrors first.
func Packages(ctx context.Context, c *store.Card, refresh bool) (*status.Packages, error) {
	s, _, err := begin(ctx, c, Options{})
	if err != nil {
		return nil, err
	}
	defer s.agent.Close()
	r, err := s.agent.Packages(ctx, &cardpb.PackagesRequest{Refresh: refresh})
	var refused *connect.Error
	switch {
	case errors.As(err, &refused) && refused.Code() == connect.CodeUnimplemented:
		return nil, fmt.Errorf("%w: the card lists no packages: %s", ErrRefused, refused.Message())
	case refused != nil:
		return nil, errors.New(refused.Message())
	case err != nil:
		return nil, err
	}
	p := &status.Packages{
		Installed: int(r.Installed), Added: int(r.Added), Removed: int(r.Removed), Upgraded: int(r.Upgraded),
		Pending: int(r.Pending), Security: int(r.Security), Origins: r.Origins,
		Changes: []status.PackageChange{}, Updates: []status.PackageUpdate{},
	}
	if r.ListsUnix > 0 {
		p.Lists = time.Unix(r.ListsUnix, 0)
	}
	for _, c := range r.Changes {
		p.Changes = append(p.Changes, status.PackageChange{Name: c.Name, From: c.From, To: c.To})
	}
	for _, u := range r.Updates {
		p.Updates = append(p.Updates, status.PackageUpdate{Name: u.Name, From: u.From, To: u.To, Origin: u.Origin, Security: u.Security})
	}
	return p, nil
}
