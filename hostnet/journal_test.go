package hostnet

import (
	"fmt"
	"sync"
	"testing"

	"github.com/toe-project/toe/card/store/storetest"
)

// Ports are opened at the same time, and each notes what it makes.
func TestJournalLosesNoEntry(t *testing.T) {
	c := storetest.Card(t, "")
	const ports = 8
	var wg sync.WaitGroup
	for i := range ports {
		wg.Go(func() {
			for range 2 {
				if err := note(c, func(j *Journal) { j.addInterface(fmt.Sprint("toe-", i)) }); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if j, err := loadJournal(c); err != nil || len(j.Interfaces) != ports {
		t.Errorf("%q, %v; want %d interfaces", j.Interfaces, err, ports)
	}
}
