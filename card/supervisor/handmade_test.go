package supervisor

import (
	"os"
	"strings"
	"testing"

	"github.com/toe-project/toe/card/client"
	"github.com/toe-project/toe/card/status"
	"github.com/toe-project/toe/card/store/storetest"
)

// A card.yaml that was written by hand is a card: toe@NAME.service starts it.
func TestCardMadeByHand(t *testing.T) {
	dirs := storetest.Dirs(t)
	p := dirs.Card("edge")
	if err := os.MkdirAll(p.State, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p.Spec(), []byte("ports: []\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	c, err := dirs.Open("edge")
	if err != nil {
		t.Fatal(err)
	}
	r := startCard(t, newScene(), c)
	r.await("health", inState(status.Healthy))
	if _, err := c.LoginKey(); err != nil {
		t.Errorf("no key to log in with: %v", err)
	}
}

func TestDialRefusesAPortThatIsNone(t *testing.T) {
	r := startCard(t, newScene(), storetest.Card(t, ""))
	r.await("health", inState(status.Healthy))
	for _, port := range []int{0, -1, 65536} {
		if _, err := client.New(r.c).Dial(t.Context(), port); err == nil || !strings.Contains(err.Error(), "1 to 65535") {
			t.Errorf("port %d: %v", port, err)
		}
	}
}
