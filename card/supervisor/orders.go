package supervisor

import (
	"errors"
	"net/http"

	"github.com/toe-project/toe/card/rom"
	"github.com/toe-project/toe/card/status"
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
	flash := s.world.flashNow()
	if flash.rom == nil {
		refuse(w, http.StatusConflict, errNoFlash)
		return
	}
	hw := s.world.hardware()
	to, err := flash.rom.BackTo(hw)
	if err == nil {
		who := r.FormValue("who")
		err = s.world.order(func(r *rom.ROM) (status.FirmwareEvent, error) { return rom.GoBack(r, who, hw) })
	}
	if err != nil {
		refuse(w, http.StatusConflict, err)
		return
	}
	s.startAgain()
	answer(w, http.StatusAccepted, status.Rollback{Slot: string(to)})
}

var errNoFlash = errors.New("the card has no flash; edition debian has one")
