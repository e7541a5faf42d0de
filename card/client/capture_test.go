package client

import (
	"errors"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protodelim"

	"github.com/toe-project/toe/card/store/storetest"
	"github.com/toe-project/toe/control/cardpb"
)

// TestCapture has a supervisor that sends batches until it is told otherwise.
func TestCapture(t *testing.T) {
	c := storetest.Card(t, "")
	if err := c.Paths.MakeRuntime(); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", c.Paths.Socket())
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", captureEnd)
		for n := 0; r.Context().Err() == nil; n++ {
			if _, err := protodelim.MarshalTo(w, &cardpb.CaptureBatch{Interface: r.FormValue("port"), Received: uint64(n)}); err != nil {
				return
			}
			_ = http.NewResponseController(w).Flush()
			if r.FormValue("port") == "gone" {
				w.Header().Set(captureEnd, "the interface is gone")
				return
			}
			time.Sleep(time.Millisecond)
		}
	})}
	go func() { _ = srv.Serve(l) }()
	defer srv.Close()

	enough := errors.New("enough")
	ended := make(chan error)
	go func() {
		ended <- New(c).Capture(t.Context(), "wan", 96, func(b *cardpb.CaptureBatch) error {
			if b.Interface == "wan" && b.Received == 5 {
				return enough
			}
			return nil
		})
	}()
	select {
	case err := <-ended:
		if !errors.Is(err, enough) {
			t.Errorf("after enough: %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("a capture that has enough does not end while the card sends")
	}
	err = New(c).Capture(t.Context(), "gone", 0, func(*cardpb.CaptureBatch) error { return nil })
	if err == nil || !strings.Contains(err.Error(), "the interface is gone") {
		t.Errorf("a capture that the card ends: %v", err)
	}
}
