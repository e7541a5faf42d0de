package support

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/toe-project/toe/card/client"
	"github.com/toe-project/toe/card/status"
	"github.com/toe-project/toe/card/store"
)

// answer is how long a supervisor may take. One that hangs is what an archive is made for.
const answer = 10 * time.Second

// AddCard adds all that is known of a card, whether it runs or not, and whether its card.yaml can be read
// or not.
func (a *Archive) AddCard(ctx context.Context, dirs store.Dirs, name string) {
	p, in := dirs.Card(name), name+"/"
	a.Learn(p.Keys())
	c, err := dirs.Open(name)
	if err != nil {
		c = &store.Card{Name: name, Paths: p, Dirs: dirs}
		a.put(Item{Name: in + "card.yaml"}, nil, err)
	}
	a.AddFile(in+"card.yaml", Text, p.Spec())
	a.AddJSON(ctx, in+"status.json", answer, func(ctx context.Context) (any, error) { return client.Status(ctx, c) })
	a.Add(ctx, in+"events.jsonl", Lines, answer, func(ctx context.Context) ([]byte, error) {
		return collect(func(add func(any)) error {
			return client.Events(ctx, c, false, func(e status.EventLine) { add(e) })
		})
	})
	// The agent's lines and those of the card's kernel.
	a.Add(ctx, in+"card-log.txt", Text, answer, func(ctx context.Context) ([]byte, error) {
		var out bytes.Buffer
		err := client.New(c).Logs(ctx, false, 0, func(l status.LogLine) {
			fmt.Fprintf(&out, "%s %-6s %s\n", l.Time.UTC().Format(time.RFC3339Nano), l.Source, l.Text)
		})
		if errors.Is(err, client.ErrNotRunning) {
			err = nil // the console's log has the last of them
		}
		return out.Bytes(), err
	})
	for _, f := range []struct {
		name string
		form form
		path string
	}{
		{"supervisor.log", Text, p.Log()}, {"supervisor.log.1", Text, p.Log() + ".1"},
		{"console.log", Text, p.ConsoleLog()}, {"console.log.1", Text, p.ConsoleLog() + ".1"},
		{"last.json", JSON, p.Last()}, {"links.json", JSON, p.Links()}, {"journal.json", JSON, p.Journal()},
		{"firmware-history.jsonl", Lines, p.FirmwareHistory()},
	} {
		a.AddFile(in+f.name, f.form, f.path)
	}
}

// collect encodes each value that f adds as a line of JSON.
func collect(f func(add func(any)) error) ([]byte, error) {
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	err := f(func(v any) { _ = enc.Encode(v) })
	return out.Bytes(), err
}
