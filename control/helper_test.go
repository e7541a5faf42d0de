package control

import (
	"strings"
	"testing"
)

// refusal is a configuration with one fault, and what its error has to name.
type refusal struct {
	spoil func(*Config)
	want  []string
}

// refuses spoils a good configuration in each way.
func refuses(t *testing.T, good func(testing.TB) *Config, faults map[string]refusal) {
	for name, f := range faults {
		t.Run(name, func(t *testing.T) {
			c := good(t)
			f.spoil(c)
			err := c.Validate()
			if err == nil {
				t.Fatal("accepted")
			}
			for _, w := range f.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("error %q does not say %q", err, w)
				}
			}
		})
	}
}

// roundTrip is what the card reads of what the host writes.
func roundTrip(t *testing.T, c *Config) *Config {
	t.Helper()
	data, err := c.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseConfig(data)
	if err != nil {
		t.Fatal(err)
	}
	got.Digest = ""
	return got
}
