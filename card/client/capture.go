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

// Capture calls f with each batch of packets of an interface of the card, the first one empty. It
// returns nil when ctx ends, and the error of f. Snap is in bytes, 0 for whole packets.
func (cl *Client) Capture(ctx context.Context, port string, snap uint32, f func(*cardpb.CaptureBatch) error) error {
	q := url.Values{"port": {port}, "snap": {strconv.FormatUint(uint64(snap), 10)}}
	resp, err := cl.send(ctx, http.MethodGet, "/capture?"+q.Encode(), nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	in := bufio.NewReader(resp.Body)
	for {
		batch := &cardpb.CaptureBatch{}
		err := protodelim.UnmarshalOptions{MaxSize: maxBatch}.UnmarshalFrom(in, batch)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, io.EOF) && resp.Trailer.Get("Toe-Capture-End") == "":
			return fmt.Errorf("card %s: the capture ended, because the card did", cl.card.Name)
		case errors.Is(err, io.EOF):
			return fmt.Errorf("card %s: the capture ended: %s", cl.card.Name, resp.Trailer.Get("Toe-Capture-End"))
		case err != nil:
			return fmt.Errorf("card %s: the capture broke off: %w", cl.card.Name, err)
		}
		if err := f(batch); err != nil {
			return err
		}
	}
}
