package main

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"github.com/toe-project/toe/card/spec"
	"github.com/toe-project/toe/card/status"
	"github.com/toe-project/toe/card/store"
	"github.com/toe-project/toe/internal/arch"
	"github.com/toe-project/toe/internal/cli"
	"github.com/toe-project/toe/internal/progress"
	"github.com/toe-project/toe/machine"
)

// printUp says how the card is, and what to try next.
func printUp(w io.Writer, c *store.Card, st status.Status) {
	printStatus(w, st)
	arg := ""
	if c.Name != spec.DefaultName {
		arg = " " + c.Name
	}
	fmt.Fprintln(w, "\nNext:")
	toe := program()
	tips := [][2]string{
		{toe + " ssh" + arg + " -- uname -a", "run a command on the card, or log in without one"},
		{toe + " exec" + arg + " -- CMD", "run CMD here with the card as its only network"},
		{toe + " status" + arg + ", logs -f" + arg + ", console" + arg, "watch it"},
		{toe + " down" + arg, "take it down"},
	}
	if st.Exec == nil {
		tips = append(tips[:1], tips[2:]...)
	}
	width := 0
	for _, t := range tips {
		width = max(width, len(t[0]))
	}
	for _, t := range tips {
		fmt.Fprintf(w, "  %-*s  %s\n", width, t[0], t[1])
	}
	if st.Machine.Kind == string(machine.TCG) && st.Machine.Arch == arch.Host().Name && !umlBuilt(c.Paths.Cache) {
		fmt.Fprintln(w, "\nThis card runs under emulation. `make native`, or `"+toe+" firmware build --machine uml`,\n"+
			"builds a User-Mode Linux kernel in a few minutes; cards started after that take it and are several times faster.")
	}
}

// program is what to type for this program: its name, where a shell would find
// it by that.
func program() string {
	self, err := os.Stat("/proc/self/exe")
	if err != nil {
		return "toe"
	}
	if path, err := exec.LookPath("toe"); err == nil {
		if found, err := os.Stat(path); err == nil && os.SameFile(found, self) {
			return "toe"
		}
	}
	return os.Args[0]
}

func printStatus(w io.Writer, st status.Status) {
	w = cli.Visible{Writer: w}
	fmt.Fprintf(w, "%s is %s", st.Name, st.State)
	if st.Machine.PID != 0 {
		fmt.Fprintf(w, ": %s, %s, up %s", st.Machine.Kind, st.Machine.Arch, seconds(st.UptimeSeconds))
	}
	if st.ReadySeconds > 0 {
		fmt.Fprintf(w, ", ready in %.2f s", st.ReadySeconds)
	}
	fmt.Fprintln(w)
	for _, r := range st.Reasons {
		fmt.Fprintf(w, "  because   %s\n", r)
	}
	printLink(w, "link", st.Link)
	if st.Exec != nil && !st.Link.Namespace {
		printLink(w, "exec", *st.Exec)
	}
	for _, p := range st.Ports {
		fmt.Fprintf(w, "  port      %s (%s), MTU %d, %s%s\n", p.Name, p.Attach, p.MTU, p.State, colon(strings.Join(p.Addresses, ", ")))
		if p.Program != "" {
			fmt.Fprintf(w, "            through %s\n", p.Program)
		}
	}
	printDisks(w, st.Disks)
	for _, s := range st.Services {
		fmt.Fprintf(w, "  service   %s, %s%s\n", s.Name, s.State, colon(s.Detail))
	}
	printOffload(w, st.Offload)
	if st.Firmware.Version != "" {
		fmt.Fprintf(w, "  firmware  %s %s, Linux %s\n", st.Firmware.Edition, st.Firmware.Version, st.Firmware.Kernel)
		if st.Firmware.Differs != "" {
			fmt.Fprintf(w, "            %s; `toe firmware build --machine %s --arch %s`, `toe down` and `toe up` bring this host's\n",
				st.Firmware.Differs, cmp.Or(st.Machine.Kind, "KIND"), st.Machine.Arch)
		}
	}
	if ignored := st.Firmware.Ignored; len(ignored) > 0 {
		fmt.Fprintf(w, "  ignored   by this firmware, which does not know them: %s\n", strings.Join(ignored, ", "))
	}
	if st.Machine.PID != 0 {
		fmt.Fprintf(w, "  processes supervisor %d, machine %d, pump %d\n", st.Supervisor.PID, st.Machine.PID, st.Pump.PID)
	}
}

func printLink(w io.Writer, what string, l status.Link) {
	if len(l.Host) == 0 {
		return
	}
	where := ""
	if l.Namespace {
		where = " in a namespace of its own"
	}
	var host, far []string
	for i := range l.Host {
		host, far = append(host, l.Host[i].String()), append(far, l.Card[i].String())
	}
	fmt.Fprintf(w, "  %-9s %s%s, MTU %d, host %s, card %s\n", what, l.Interface, where, l.MTU, strings.Join(host, " "), strings.Join(far, " "))
}

func printDisks(w io.Writer, disks []status.Disk) {
	for _, d := range disks {
		fmt.Fprintf(w, "  disk      %s, %s, %s read, %s written, %d flushes", d.Name, progress.Size(d.Bytes),
			progress.Size(int64(d.ReadBytes)), progress.Size(int64(d.WrittenBytes)), d.Flushes)
		if d.Errors > 0 {
			fmt.Fprintf(w, ", %d errors", d.Errors)
		}
		fmt.Fprintln(w)
	}
}

func printOffload(w io.Writer, o status.Offload) {
	text := o.Mode
	if o.TCP != nil {
		text += fmt.Sprintf(", %d connections open, %d opened", o.TCP.Open, o.TCP.Opened)
	}
	if o.UDP != nil {
		text += fmt.Sprintf(", %d UDP flows", o.UDP.Flows)
	}
	if text != "" {
		fmt.Fprintf(w, "  offload   %s\n", text)
	}
	for _, p := range o.Publish {
		sees := ""
		if p.Source == "card" {
			sees = ", which sees the card's address"
		}
		where := ""
		if p.In == "exec" {
			where = " in toe exec"
		}
		fmt.Fprintf(w, "  publish   %s %d to %s%s%s\n", p.Protocol, p.Port, strings.Join(p.To, " and "), where, sees)
	}
}

// printOffloadCounters prints what status shows and up does not.
func printOffloadCounters(w io.Writer, o status.Offload) {
	w = cli.Visible{Writer: w}
	if t := o.TCP; t != nil {
		fmt.Fprintf(w, "  tcp       %d opening, %d published, %d refused, %d unreachable, %d timed out, %d reset; from host %s, to host %s\n",
			t.Opening, t.Published, t.Refused, t.Unreachable, t.TimedOut, t.Reset,
			progress.Size(int64(t.FromHostBytes)), progress.Size(int64(t.ToHostBytes)))
	}
	if u := o.UDP; u != nil {
		fmt.Fprintf(w, "  udp       %d flows opened; from host %d, %s; to host %d, %s; %d ICMP errors passed on\n", u.Opened,
			u.FromHost, progress.Size(int64(u.FromHostBytes)), u.ToHost, progress.Size(int64(u.ToHostBytes)), u.ICMPErrors)
	}
	for _, d := range o.Drops() {
		fmt.Fprintf(w, "  dropped   %s: %s, %d times\n", d.Protocol, d.Cause, d.Count)
	}
}

func colon(s string) string {
	if s == "" {
		return ""
	}
	return ": " + s
}

func seconds(s float64) string {
	switch {
	case s < 60:
		return fmt.Sprintf("%.0f s", s)
	case s < 3600:
		return fmt.Sprintf("%d min %d s", int(s)/60, int(s)%60)
	}
	return fmt.Sprintf("%d h %d min", int(s)/3600, int(s)%3600/60)
}

func printCounters(w io.Writer, st status.Status) {
	for i, q := range st.Link.Queues {
		fmt.Fprintf(w, "  queue %d   to card %d packets, %s, %d dropped; to host %d packets, %s, %d dropped\n", i,
			q.ToCard.Packets, progress.Size(int64(q.ToCard.Bytes)), q.ToCard.Drops.Total(),
			q.ToHost.Packets, progress.Size(int64(q.ToHost.Bytes)), q.ToHost.Drops.Total())
	}
}
