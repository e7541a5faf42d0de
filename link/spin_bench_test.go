package link

import (
	"fmt"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/link/fakecard"
)

// BenchmarkRoundTrip is a packet to a card that answers it, both sides asleep
// meanwhile: with a pump that spins and with one that does not. gap is what the
// host waits between two; ns/op less that is the round trip.
func BenchmarkRoundTrip(b *testing.B) {
	for _, gap := range []time.Duration{0, time.Millisecond} {
		for _, spin := range []time.Duration{0, 200 * time.Microsecond} {
			b.Run(fmt.Sprintf("gap %s/spin %s", gap, spin), func(b *testing.B) {
				w := newWorld(b, worldOptions{process: true, device: func(d *Device) { d.Spin = spin }})
				stop, stopped := make(chan struct{}), make(chan error)
				go w.echo(stop, stopped)
				down := append(make([]byte, 10), fakecard.UDP(hostIP, cardIP, 1, 2, 100)...)
				var trip, cpu time.Duration
				cpu = -time.Duration(cpuOf(b, w.k.PumpPID()))
				for b.Loop() {
					began := time.Now()
					if _, err := unix.Write(w.sock, down); err != nil {
						b.Fatal(err)
					}
					w.want(b)
					trip += time.Since(began)
					time.Sleep(gap)
				}
				cpu += time.Duration(cpuOf(b, w.k.PumpPID()))
				close(stop)
				w.send(b, vnet{}, down[10:]) // for echo to look up from
				if err := <-stopped; err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(float64(trip)/float64(b.N), "trip-ns/op")
				b.ReportMetric(float64(cpu)/float64(b.N), "pump-cpu-ns/op")
			})
		}
	}
}

// echo answers each packet to the card with one to the host.
func (w *world) echo(stop chan struct{}, stopped chan error) {
	buf, up := make([]byte, fakecard.FrameMax), fakecard.Frame(fakecard.UDP(cardIP, hostIP, 2, 1, 100))
	for {
		_, err := w.card.Recv(buf)
		if err == nil {
			err = w.card.Send(up)
		}
		select {
		case <-stop:
			stopped <- nil
			return
		default:
		}
		if err != nil {
			stopped <- err
			return
		}
	}
}
