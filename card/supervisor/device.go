package supervisor

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/toe-project/toe/card/spec"
	"github.com/toe-project/toe/card/store"
	"github.com/toe-project/toe/hostnet"
)

// device is a network device of the card with what serves it. Its attachment,
// its keeper and whether it is dead are guarded by the world's mu.
type device struct {
	Device
	addrs  *store.LinkAddrs // of a link
	port   spec.Port        // of a port
	keeper Keeper
	dead   bool // it does not work; a port is opened again before the next life
}

// title is what messages call the device.
func (d *device) title() string {
	if d.port.Name != "" {
		return "port " + d.port.Name
	}
	return d.Name
}

func (w *world) openLink(ctx context.Context, d *device) error {
	want := hostnet.LinkOptions{Queues: d.Queues, Addrs: *d.addrs}
	open := w.parts.Network.Exec
	if d.Name == store.LinkDevice {
		want.Interface, want.Prefer, open = w.specNow().Link.Interface, w.given.Interface, w.parts.Network.Link
	}
	att, err := open(ctx, want)
	if err != nil {
		return fmt.Errorf("%s: %w", d.Name, err)
	}
	w.attach(d, att, "fix: `toe down` and `toe up`")
	return w.keep(d)
}

// ownNetwork is the warning about QEMU's user network.
const ownNetwork = "QEMU's own user network, from which the card reaches services on this host's loopback " +
	"(as 10.0.2.2); " +
	"fix: `apt install passt`, `toe down` and `toe up`"

func (w *world) openPort(ctx context.Context, d *device) error {
	att, err := w.parts.Network.Port(ctx, d.port, d.MAC, w.machine.Kind())
	if err != nil {
		return fmt.Errorf("port %s: %w", d.port.Name, err)
	}
	if att == nil {
		d.Socket = "" // the machine's own network
		w.board.event("port %s: %s", d.port.Name, ownNetwork)
		return nil
	}
	w.attach(d, att, fmt.Sprintf("fix: `toe reset %s`", w.name))
	if err := w.keep(d); err != nil {
		return err
	}
	if att.Renewed != nil {
		w.task(func() { w.renew(d, att) })
	}
	return nil
}

// attach gives a device its attachment, and watches the other end.
func (w *world) attach(d *device, att *hostnet.Attachment, fix string) {
	w.mu.Lock()
	d.Att, d.dead = att, false
	w.mu.Unlock()
	if att.Died != nil {
		w.task(func() { w.watch(d, att, fix) })
	}
}

// watch waits for the death of the other end of a link or port.
func (w *world) watch(d *device, att *hostnet.Attachment, fix string) {
	select {
	case err := <-att.Died:
		if err == nil || w.leaving() {
			return // closed on purpose
		}
		w.board.event("%s: %v", d.title(), err)
		w.die(d, att, fmt.Sprintf("%v; %s", err, fix))
	case <-w.quit:
	}
}

// leaving reports whether the card is being taken down.
func (w *world) leaving() bool {
	select {
	case <-w.quit:
		return true
	default:
		return false
	}
}

// die marks a device as dead, unless another attachment has replaced the one that
// failed.
func (w *world) die(d *device, att *hostnet.Attachment, why string) {
	w.mu.Lock()
	current := d.Att == att
	d.dead = d.dead || current
	w.mu.Unlock()
	if current {
		w.board.trouble(d.title(), why)
	}
}

// keep starts the keeper of a device whose attachment is open.
func (w *world) keep(d *device) error {
	k, err := w.parts.Keeper(d.Device, func(text string) { w.board.deviceEvent(d.Name, "%s", text) })
	if err != nil {
		return fmt.Errorf("%s: %w", d.Name, err)
	}
	w.mu.Lock()
	d.keeper = k
	att := d.Att
	w.mu.Unlock()
	w.task(func() {
		if err := k.Serve(context.Background()); err != nil {
			w.board.event("%s: %v", d.Name, err)
			w.die(d, att, err.Error())
		}
	})
	return nil
}

// renew hands a keeper the file that replaces one whose other side has ended.
func (w *world) renew(d *device, att *hostnet.Attachment) {
	for {
		select {
		case <-w.quit:
			return
		case r, more := <-att.Renewed:
			if !more {
				return
			}
			w.mu.Lock()
			k, can := d.keeper.(interface{ Renew([]*os.File) error })
			w.mu.Unlock()
			if !can {
				r.File.Close()
				continue
			}
			if err := k.Renew([]*os.File{r.File}); err != nil {
				w.board.deviceEvent(d.Name, "%v", err)
				continue
			}
			w.board.deviceEvent(d.Name, "%v; started again, its connections are lost", r.Why)
		}
	}
}

// reopen opens the dead ports again, between two lives of the machine: a running
// machine would lose its device. A port stays dead until it is open, so each life
// tries again.
func (w *world) reopen(ctx context.Context) error {
	for _, d := range w.ports {
		w.mu.Lock()
		dead := d.dead
		w.mu.Unlock()
		if !dead {
			continue
		}
		if err := w.shut(d); err != nil { // the device is closed all the same
			w.board.event("%s: %v", d.title(), err)
		}
		w.board.trouble(d.title(), "")
		if err := w.openPort(ctx, d); err != nil {
			w.mu.Lock()
			d.dead = true
			w.mu.Unlock()
			w.board.trouble(d.title(), err.Error())
			return err
		}
	}
	return nil
}

// shut closes what serves a device, once.
func (w *world) shut(d *device) error {
	w.mu.Lock()
	keeper, att := d.keeper, d.Att
	d.keeper, d.Att = nil, nil
	w.mu.Unlock()
	var err error
	if keeper != nil {
		err = keeper.Close()
	}
	return errors.Join(err, att.Detach())
}
