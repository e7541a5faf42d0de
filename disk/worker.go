package disk

import (
	"encoding/json"
	"errors"
	"os"

	"github.com/toe-project/toe/link"
)

// Confine drops the privileges of the worker's process but for the use of the disk's file. lacks
// names what this host could not confine.
type Confine func(file int, readOnly bool) (lacks string, err error)

// Work serves the orders that arrive on a SOCK_SEQPACKET socket until the keeper hangs up. It calls
// confine, if not nil, before the first request. Wrap, if not nil, stands between the device and the
// file, for tests.
func Work(orders int, confine Confine, wrap func(File) File) error {
	var file int
	var s setup
	c := link.RequestsConfig{Most: mostBytes}
	c.Open = func(what json.RawMessage, fds []int, w link.Worker) (link.Requests, error) {
		if err := json.Unmarshal(what, &s); err != nil || len(fds) != 2 || s.Size < SectorSize {
			return nil, errors.New("init: want the counters and the file of a disk")
		}
		link.NameProcess("disk " + s.Name)
		ctr, err := openCounters(os.NewFile(uintptr(fds[0]), "disk counters"))
		fds[0] = -1
		if err != nil {
			return nil, err
		}
		file = fds[1]
		fds[1] = -1
		d := &device{file: fd(file), id: s.Name, size: s.Size, readOnly: s.ReadOnly, ctr: ctr, worker: w}
		if wrap != nil {
			d.file = wrap(d.file)
		}
		return d, nil
	}
	if confine == nil {
		return link.ServeRequests(orders, c, nil)
	}
	return link.ServeRequests(orders, c, func() (string, error) { return confine(file, s.ReadOnly) })
}
