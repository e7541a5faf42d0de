package hostnet

import (
	"fmt"

	"github.com/toe-project/toe/card/spec"
	"github.com/toe-project/toe/card/store"
)

// Check reports what this host cannot provide for a card that is not running. It is called before
// the card is made and before its firmware is.
func Check(spec spec.Spec) error {
	if !store.Privileged() {
		if err := spec.WithoutRoot(); err != nil {
			return err
		}
	}
	for _, p := range spec.Ports {
		if err := (&Host{}).CheckPort(p); err != nil {
			return fmt.Errorf("port %s: %w", p.Name, err)
		}
	}
	return nil
}
