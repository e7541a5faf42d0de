package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/toe-project/toe/card/client"
	"github.com/toe-project/toe/card/store"
	"github.com/toe-project/toe/control/cardpb"
	"github.com/toe-project/toe/internal/cli"
	"github.com/toe-project/toe/internal/pcapng"
)

func captureCmd() *cobra.Command {
	c := &capture{}
	var port string
	var snap uint32
	cmd := cardVerb("capture", "Capture packets of one of the card's interfaces", func(cmd *cobra.Command, card *store.Card) error {
		if c.file == "-" && term.IsTerminal(int(os.Stdout.Fd())) {
			return cli.Usagef("standard output is a terminal: want -w FILE, or a program as in `toe capture | tcpdump -nr -`")
		}
		c.card, c.snap, c.err = card.Name, snap, cmd.ErrOrStderr()
		err := client.New(card).Capture(cmd.Context(), port, snap, c.take)
		return c.finish(err)
	})
	cmd.Long = `Capture writes the packets of a port or a link, as pcapng, until Ctrl-C. With -w - the
packets appear live in a program that reads them. A FILE that exists is replaced.

What a card sends or receives as one piece is one packet: up to 64 KiB, where the interface or the
card's kernel joins segments. On a link the control API's own connections are left out, because they
carry the capture. Packets that were not read in time are counted in the file and at the end.`
	cmd.Example = `  toe capture --port wan -w wan.pcapng
  toe capture edge -w - | wireshark -k -i -
  toe capture --port link | tcpdump -nr - 'udp port 53'`
	f := cmd.Flags()
	f.StringVar(&port, "port", "", "name of a port or a link, or link (the card's first port)")
	f.StringVarP(&c.file, "write", "w", "-", "file to write, - for standard output")
	f.Uint64VarP(&c.count, "count", "c", 0, "end after this many packets (0: no end)")
	f.Uint32Var(&snap, "snap", 0, "keep this many bytes of each packet (0: all)")
	f.Int64Var(&c.limit, "max-mib", 0, "end when the file has this many MiB (0: no end)")
	_ = cmd.MarkFlagFilename("write")
	return cmd
}

// capture writes what a card captures. The file is made when the card has agreed, so that a refusal
// replaces nothing.
type capture struct {
	card, file string
	snap       uint32
	count      uint64 // packets, 0 for no end
	limit      int64  // MiB, 0 for no end
	err        io.Writer

	to      *os.File
	buf     *bufio.Writer
	out     *pcapng.Writer
	port    string
	written int64  // bytes
	packets uint64 // in the file
	last    *cardpb.CaptureBatch
}

// errEnough ends a capture that has all that was asked for.
var errEnough = errors.New("enough packets")

func (c *capture) take(b *cardpb.CaptureBatch) error {
	if c.out == nil {
		if err := c.open(b.Interface); err != nil {
			return err
		}
	}
	c.last = b
	for _, p := range b.Packets {
		err := c.out.Packet(pcapng.Packet{
			Time: time.Unix(0, p.TimeUnixNano), Length: p.Length, Outgoing: p.Outgoing, Frame: p.Frame,
		})
		if err != nil {
			return err
		}
		c.packets++
		if c.count > 0 && c.packets >= c.count || c.limit > 0 && c.written >= c.limit<<20 {
			return errEnough
		}
	}
	return c.buf.Flush()
}

// Write counts the bytes of whole blocks.
func (c *capture) Write(b []byte) (int, error) {
	c.written += int64(len(b))
	return c.buf.Write(b)
}

func (c *capture) open(port string) (err error) {
	c.to, c.port = os.Stdout, port
	if c.file != "-" {
		if c.to, err = os.OpenFile(c.file, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600); err != nil {
			return err
		}
	}
	c.buf = bufio.NewWriterSize(c.to, 1<<16)
	c.out, err = pcapng.NewWriter(c, pcapng.Interface{Name: port, Description: c.card, Application: "toe", Snap: c.snap})
	if err == nil {
		fmt.Fprintf(c.err, "capturing on %s of %s; Ctrl-C ends\n", port, c.card)
	}
	return err
}

// finish ends the file and says what is in it.
func (c *capture) finish(err error) error {
	if errors.Is(err, errEnough) {
		err = nil
	}
	if c.out == nil {
		return err
	}
	err = errors.Join(err, c.out.Statistics(time.Now(), c.last.GetReceived(), c.last.GetDropped()), c.buf.Flush())
	if c.to != os.Stdout {
		err = errors.Join(err, c.to.Close())
	}
	fmt.Fprintf(c.err, "%d packets of %s, %d dropped\n", c.packets, c.port, c.last.GetDropped())
	return err
}
