package client

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"google.golang.org/protobuf/encoding/protodelim"

	"github.com/toe-project/toe/control/cardpb"
)

// maxBatch bounds a batch of a capture, in bytes. The card's answers were bounded to this already.
const maxBatch = 1 << 20

// captureEnd is the trailer that says why the card ended a capture (card/supervisor).
const captureEnd = "Toe-Capture-End"

// Capture calls f with each batch of packets of an interface of the card, the first one empty. It
// returns nil when ctx ends, and the error of f. Snap is in bytes, 0 for whole packets.
func (cl *Client) Capture(ctx context.Context, port string, snap uint32, f func(*cardpb.CaptureBatch) error) error {
	q := url.Values{"port": {port}, "snap": {strconv.FormatUint(uint64(snap), 10)}}
	reading, enough := context.WithCancel(ctx)
	defer enough()
	resp, err := cl.send(reading, http.MethodGet, "/capture?"+q.Encode(), nil)
	if err != nil {
		return err
	}
	// A body that is closed reads to its end, unless its connection's deadline has passed.
	defer func() { enough(); resp.Body.Close() }()
	in := bufio.NewReader(resp.Body)
	for {
		batch := &cardpb.CaptureBatch{}
		err := protodelim.UnmarshalOptions{MaxSize: maxBatch}.UnmarshalFrom(in, batch)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, io.EOF) && resp.Trailer.Get(captureEnd) == "":
			return fmt.Errorf("card %s: the capture ended, because the card did", cl.card.Name)
		case errors.Is(err, io.EOF):
			return fmt.Errorf("card %s: the capture ended: %s", cl.card.Name, resp.Trailer.Get(captureEnd))
		case err != nil:
			return fmt.Errorf("card %s: the capture broke off: %w", cl.card.Name, err)
		}
		if err := f(batch); err != nil {
			return err
		}
	}
}
