package supervisor

import (
	"bufio"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protodelim"

	"github.com/toe-project/toe/control/cardpb"
)

// serveCapture passes a capture on, batch after batch, each behind its length.
func (s *Supervisor) serveCapture(w http.ResponseWriter, r *http.Request) {
	agent, err := s.client()
	if err != nil {
		refuse(w, http.StatusServiceUnavailable, err)
		return
	}
	snap, _ := strconv.ParseUint(r.FormValue("snap"), 10, 32)
	stream, err := agent.Capture(r.Context(), &cardpb.CaptureRequest{Interface: r.FormValue("port"), Snap: uint32(snap)})
	if err != nil {
		refuse(w, http.StatusBadGateway, err)
		return
	}
	defer stream.Close()
	// A refusal arrives in place of the first batch.
	if !stream.Receive() {
		refuse(w, http.StatusBadGateway, s.refusedCapture(stream.Err()))
		return
	}
	w.Header().Set("Trailer", captureEnd)
	out := bufio.NewWriter(w)
	for more := true; more; more = stream.Receive() {
		_, err := protodelim.MarshalTo(out, stream.Msg())
		if errors.Join(err, out.Flush(), http.NewResponseController(w).Flush()) != nil {
			return
		}
	}
	if err := stream.Err(); err != nil {
		w.Header().Set(captureEnd, strconv.Quote(err.Error()))
	}
}

// captureEnd is the trailer that says why the card ended a capture.
const captureEnd = "Toe-Capture-End"

func (s *Supervisor) refusedCapture(err error) error {
	var refusal *connect.Error
	switch {
	case !errors.As(err, &refusal):
		return err
	case refusal.Code() == connect.CodeUnimplemented && !s.card.Spec.Nano():
		return fmt.Errorf("card %s: its agent is older than toe capture; fix: `toe firmware build`, then start the card again", s.card.Name)
	}
	return errors.New(refusal.Message())
}
