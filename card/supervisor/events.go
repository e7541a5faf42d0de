package supervisor

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"

	"github.com/toe-project/toe/card/status"
)

// serveEvents sends the history, and with follow what comes, until the client or the
// supervisor ends. A follower has no buffer of its own: one that reads slowly finds
// that events are missing.
func (s *Supervisor) serveEvents(w http.ResponseWriter, r *http.Request) {
	s.board.mu.Lock()
	events, next := slices.Clone(s.board.history.events), s.board.history.total
	s.board.mu.Unlock()
	out := json.NewEncoder(w)
	if sendEvents(w, out, events, 0) != nil || r.FormValue("follow") != "1" {
		return
	}
	for ended := false; !ended; {
		ended = r.Context().Err() != nil // a last look follows the end
		events, missed := s.board.eventsSince(r.Context(), next)
		next += missed + uint64(len(events))
		if sendEvents(w, out, events, missed) != nil {
			return
		}
	}
}

func sendEvents(w http.ResponseWriter, out *json.Encoder, events []status.Event, missed uint64) error {
	for _, e := range events {
		if err := out.Encode(status.EventLine{Event: e, Missed: missed}); err != nil {
			return err
		}
		missed = 0
	}
	return http.NewResponseController(w).Flush()
}

// eventsSince waits for events after the first n. At the end of ctx it returns without.
func (b *board) eventsSince(ctx context.Context, n uint64) (events []status.Event, missed uint64) {
	for {
		b.mu.Lock()
		events, missed = b.history.since(n)
		sequence := b.sequence
		b.mu.Unlock()
		if len(events) > 0 || ctx.Err() != nil {
			return events, missed
		}
		b.await(ctx, sequence)
	}
}
