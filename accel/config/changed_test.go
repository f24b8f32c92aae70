package config

import (
	"strings"
	"testing"
)

func TestHostNames(t *testing.T) {
	for host, want := range map[string]bool{
		"10.1.2.3": true, "fd00::1": true, "gw.example.net": true, "gw.example.net.": true, "_srv.a-b": true, "x": true,
		"": false, "-a": false, "a-": false, "a..b": false, "a b": false, "1.2.3": false, "10.1.2.300": false, "a/b": false, "\u00e4": false,
		strings.Repeat("a", 64): false, strings.Repeat("a.", 127) + "a": false,
	} {
		if isHost(host) != want {
			t.Errorf("%q: %v", host, !want)
		}
	}
}

func TestPortRanges(t *testing.T) {
	for _, c := range []struct {
		v    any
		want PortRange
		ok   bool
	}{
		{int64(80), PortRange{80, 80}, true}, {"80", PortRange{80, 80}, true}, {"80 - 90", PortRange{80, 90}, true},
		{int64(0), PortRange{}, false}, {int64(65536), PortRange{}, false}, {"0", PortRange{}, false}, {"9-8", PortRange{}, false}, {"1-", PortRange{}, false},
		{"a", PortRange{}, false}, {"1-99999", PortRange{}, false}, {1.5, PortRange{}, false}, {nil, PortRange{}, false},
	} {
		if got, ok := portRange(c.v); got != c.want || ok != c.ok {
			t.Errorf("%v: %v, %v", c.v, got, ok)
		}
	}
}

// TestChangedFile cuts a file everywhere and changes its characters: there is a configuration or a fault, nothing else.
func TestChangedFile(t *testing.T) {
	src := minimal()
	for n := range src {
		for _, s := range []string{src[:n], src[:n] + "\"" + src[n:], src[:n] + "[" + src[n+1:], src[:n] + "\n" + src[n:], src[:n] + "\x00" + src[n:]} {
			if c, err := Parse("f", []byte(s)); err == nil && c.Validate() != nil {
				t.Errorf("accepted and not valid:\n%s", s)
			}
		}
	}
	if _, err := Parse("f", make([]byte, fileLimit+1)); err == nil || !strings.Contains(err.Error(), "larger than 4 MiB") {
		t.Errorf("a file beyond its bound: %v", err)
	}
}
