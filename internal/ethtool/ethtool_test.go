package ethtool

import (
	"errors"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestSetTSORefusesNames(t *testing.T) {
	for _, name := range []string{"", strings.Repeat("x", unix.IFNAMSIZ)} {
		if err := SetTSO(name, true); err == nil {
			t.Errorf("%q was taken", name)
		}
	}
	if err := SetTSO("toe-no-such-0", true); !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.EPERM) {
		t.Errorf("a device that is not there: %v", err)
	}
}
