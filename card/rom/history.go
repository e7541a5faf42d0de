package rom

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/toe-project/toe/card/status"
	"github.com/toe-project/toe/card/store"
	"github.com/toe-project/toe/flash"
)

const (
	maxText    = 4 << 10 // bytes of a text in an entry
	maxHistory = 4 << 20 // bytes of the file; then it begins anew, and one older file is kept
)

// Record appends an entry to the firmware history. An entry is a line of JSON, written by one call and
// synced. What a power loss has torn is left behind as a line of its own, and the next entry begins
// a new one.
func Record(p store.Paths, e status.FirmwareEvent) error {
	for _, text := range []*string{&e.Why, &e.Outcome, &e.Check, &e.Output, &e.Console} {
		*text = store.LastLines([]byte(*text), maxText)
	}
	line, err := json.Marshal(e)
	if err != nil {
		return err
	}
	path := p.FirmwareHistory()
	if fi, err := os.Stat(path); err == nil && fi.Size() > maxHistory {
		if err := os.Rename(path, path+".1"); err != nil {
			return err
		}
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("firmware history: %w", err)
	}
	defer f.Close()
	if !endsLine(f) {
		line = append([]byte{'\n'}, line...)
	}
	if _, err := f.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("firmware history: %w", err)
	}
	return f.Sync()
}

func endsLine(f *os.File) bool {
	fi, err := f.Stat()
	if err != nil || fi.Size() == 0 {
		return err == nil
	}
	b := make([]byte, 1)
	_, err = f.ReadAt(b, fi.Size()-1)
	return err == nil && b[0] == '\n'
}

// History returns the entries, the oldest first, and the number of lines that cannot be read.
func History(p store.Paths) (events []status.FirmwareEvent, torn int, err error) {
	events = []status.FirmwareEvent{}
	for _, path := range []string{p.FirmwareHistory() + ".1", p.FirmwareHistory()} {
		data, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, 0, fmt.Errorf("firmware history: %w", err)
		}
		for line := range bytes.Lines(data) {
			var e status.FirmwareEvent
			if json.Unmarshal(line, &e) != nil || e.What == "" {
				torn++
				continue
			}
			events = append(events, e)
		}
	}
	return events, torn, nil
}

// FactoryReset clears the data of a flash, and returns the entry of that for the history.
func FactoryReset(r *ROM, who string) (status.FirmwareEvent, error) {
	e := status.FirmwareEvent{Who: who, What: "factory-reset", Why: "asked for", Outcome: "the data is cleared, the slots stay"}
	if err := r.MayChange(); err != nil {
		return e, err
	}
	return e, r.ClearData()
}

// GoBack is Rollback, and returns the entry of that for the history.
func GoBack(r *ROM, who string, hw Hardware, slot flash.Slot) (status.FirmwareEvent, error) {
	e := status.FirmwareEvent{Who: who, What: "rollback", Why: "asked for"}
	to, err := r.Rollback(hw, slot)
	if err == nil {
		e.Slot, e.Outcome = string(to), "slot "+string(to)+" is started next"
	}
	return e, err
}
