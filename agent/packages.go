package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"connectrpc.com/connect"

	"github.com/toe-project/toe/agent/upgrade"
	"github.com/toe-project/toe/control/cardpb"
	"github.com/toe-project/toe/internal/dpkg"
)

// maxListed bounds the lists of an answer. The counts beside them are of all.
const maxListed = 200

// aptLists is where apt keeps the lists of the mirrors.
const aptLists = "/var/lib/apt/lists"

// packages compares the card with its image, and asks apt what is newer.
func (p *upgradePart) packages(ctx context.Context, refresh bool) (*cardpb.PackagesResponse, error) {
	text, err := os.ReadFile(dpkgStatus)
	if errors.Is(err, fs.ErrNotExist) || !p.opts.Service {
		return nil, connect.NewError(connect.CodeUnimplemented, errors.New("this card has no packages; want firmware of edition debian"))
	}
	if err != nil {
		return nil, err
	}
	now, err := dpkg.Parse(text)
	if err != nil {
		return nil, err
	}
	flashed, err := upgrade.ReadFlashed(upgrade.Flashed)
	if err != nil {
		return nil, connect.NewError(connect.CodeUnimplemented, fmt.Errorf("the card's image does not say what is in it: %w", err))
	}
	out := &cardpb.PackagesResponse{Installed: uint32(len(now)), Origins: map[string]uint32{}}
	for _, c := range upgrade.Compare(flashed, now) {
		switch {
		case c.From == "":
			out.Added++
		case c.To == "":
			out.Removed++
		default:
			out.Upgraded++
		}
		if len(out.Changes) < maxListed {
			out.Changes = append(out.Changes, &cardpb.PackageChange{Name: c.Name, From: c.From, To: c.To})
		}
	}
	if refresh {
		if err := p.refresh(ctx); err != nil {
			return nil, connect.NewError(connect.CodeFailedPrecondition, err)
		}
	}
	updates, err := p.pending(ctx, true)
	if err != nil {
		return nil, err
	}
	for _, u := range updates {
		out.Pending++
		out.Origins[u.Origin]++
		if u.Security {
			out.Security++
		}
		if len(out.Updates) < maxListed {
			out.Updates = append(out.Updates, &cardpb.PackageUpdate{Name: u.Name, From: u.From, To: u.To, Origin: u.Origin, Security: u.Security})
		}
	}
	out.ListsUnix = listsTime(aptLists)
	return out, nil
}

// listsTime is when apt read the lists of the mirrors last, 0 where it has none. Each time it works in the
// folder partial.
func listsTime(dir string) int64 {
	lists, _ := filepath.Glob(filepath.Join(dir, "*Release"))
	info, err := os.Stat(filepath.Join(dir, "partial"))
	if err != nil || len(lists) == 0 {
		return 0
	}
	return info.ModTime().Unix()
}
