package supervisor

import (
	"errors"
	"net/http"

	"github.com/toe-project/toe/card/rom"
	"github.com/toe-project/toe/card/status"
	"github.com/toe-project/toe/flash"
)

// factoryReset clears the data of the flash.
func factoryReset(who string) order {
	return func(r *rom.ROM) (status.FirmwareEvent, error) {
		return rom.FactoryReset(r, who)
	}
}

// serveRollback has the other slot of the flash started. A slot that cannot be started is refused at
// once.
func (s *Supervisor) serveRollback(w http.ResponseWriter, r *http.Request) {
	disk := s.world.flashNow()
	if disk.rom == nil {
		refuse(w, http.StatusConflict, errNoFlash)
		return
	}
	hw, slot := s.world.hardware(), flash.Slot(r.FormValue("slot"))
	to, err := disk.rom.BackTo(hw, slot)
	if err == nil {
		who := r.FormValue("who")
		err = s.world.order(func(r *rom.ROM) (status.FirmwareEvent, error) { return rom.GoBack(r, who, hw, slot) })
	}
	if err != nil {
		refuse(w, http.StatusConflict, err)
		return
	}
	s.startAgain()
	answer(w, http.StatusAccepted, status.Rollback{Slot: string(to)})
}

var errNoFlash = errors.New("the card has no flash; edition debian has one")
