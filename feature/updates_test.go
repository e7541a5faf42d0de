package feature

import "testing"

func TestWindow(t *testing.T) {
	for _, c := range []struct {
		window          Window
		calendar, delay string
	}{
		{"", "*-*-* 00:00:00 UTC", "86400s"},
		{"02:00-04:30", "*-*-* 02:00:00 UTC", "9000s"},
		{"23:15-01:00", "*-*-* 23:15:00 UTC", "6300s"},
	} {
		if calendar, delay := c.window.Timer(); calendar != c.calendar || delay != c.delay || c.window.Problem() != nil {
			t.Errorf("%s: %q %q %v", c.window, calendar, delay, c.window.Problem())
		}
	}
	for _, bad := range []Window{"2:00-4:00", "02:00", "02:00-02:00", "24:00-25:00", "02:00-04:00\n", "-"} {
		if bad.Problem() == nil {
			t.Errorf("window %q is taken", bad)
		}
	}
}

func TestBundleURL(t *testing.T) {
	for url, good := range map[BundleURL]bool{
		"": true, "https://updates.example/card.raucb": true, "http://192.0.2.1:8080/a%20b": true,
		"file:///etc/passwd": false, "https://": false, "http:///x": false, "https://x/a b": false, "https://x/\n": false,
		`https://x/"`: false, "https://x/$(id)": false,
	} {
		if got := url.Problem() == nil; got != good {
			t.Errorf("%q: taken %v", url, got)
		}
	}
}
