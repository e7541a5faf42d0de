package agent

import (
	"slices"
	"strings"
	"testing"

	"github.com/toe-project/toe/control"
	"github.com/toe-project/toe/control/cardpb"
)

// TestConfigurationInForce: the status names the configuration, the image and
// the kernel's life, and an unknown key of a newer host.
func TestConfigurationInForce(t *testing.T) {
	c := startCard(t, func(c *card) {
		data, err := c.conf.Encode()
		if err == nil {
			c.conf, err = control.ParseConfig(data)
		}
		if err != nil {
			t.Fatal(err)
		}
	})
	s := c.awaitHealthy(t)
	if s.Configuration.GetDigest() != c.conf.Digest || s.Configuration.GetVersion() != 1 || s.BootId == "" || !slices.Contains(s.Capabilities, control.CapIgnore) {
		t.Errorf("status %v", s)
	}
	data, err := c.conf.Encode()
	if err != nil {
		t.Fatal(err)
	}
	newer := []byte(strings.Replace(string(data), "{", `{"turbo": 9,`, 1))
	client := c.client(t, cardIP, c.keys)
	r, err := client.Apply(t.Context(), &cardpb.ApplyRequest{Config: newer})
	if err != nil || len(r.Changes) != 0 || !slices.Equal(r.Ignored, []string{"turbo"}) {
		t.Errorf("apply: %v, %v", r, err)
	}
	s = c.awaitHealthy(t)
	if s.Configuration.Digest != control.Digest(newer) || !slices.Equal(s.Configuration.Ignored, []string{"turbo"}) {
		t.Errorf("in force: %v", s.Configuration)
	}
	if r := c.component("configuration"); r == nil || r.State != healthy || !strings.Contains(r.Detail, "turbo") {
		t.Errorf("component %v", r)
	}
	critical := []byte(strings.Replace(string(data), "{", `{"critical": ["turbo"], "turbo": 9,`, 1))
	if _, err := client.Apply(t.Context(), &cardpb.ApplyRequest{Config: critical}); err == nil || !strings.Contains(err.Error(), `"turbo"`) {
		t.Errorf("critical: %v", err)
	}
	if s = c.awaitHealthy(t); s.Configuration.Digest != control.Digest(newer) {
		t.Errorf("a refused configuration is in force: %v", s.Configuration)
	}
}
