package config

import (
	"errors"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestParseSize(t *testing.T) {
	tests := []struct {
		in   string
		want int64 // -1: refused
	}{
		{"64GiB", 64 << 30},
		{"64 GiB", 64 << 30},
		{"64gib", 64 << 30},
		{"1.5TiB", 3 << 39},
		{"10GB", 10_000_000_000},
		{"4096B", 4096},
		{"", -1},
		{"64", -1},
		{"GiB", -1},
		{"-1GiB", -1},
		{"1e3GiB", -1},
		{"1.2.3GiB", -1},
		{"64Gi", -1},
		{"64 GiB of disk", -1},
		{"9000000TiB", -1},
		{"1..GiB", -1},
	}
	for _, tt := range tests {
		got, err := ParseSize(tt.in)
		if tt.want < 0 {
			if !errors.Is(err, ErrUnit) {
				t.Errorf("ParseSize(%q) = %d, %v, want ErrUnit", tt.in, got, err)
			}
		} else if got != tt.want || err != nil {
			t.Errorf("ParseSize(%q) = %d, %v, want %d", tt.in, got, err, tt.want)
		}
	}
}

func TestParseRate(t *testing.T) {
	for in, want := range map[string]int64{"100mbit": 100e6, "2.5 Gbit/s": 2_500_000_000, "64kbit": 64_000, "100MB": -1, "100": -1, "fast": -1} {
		got, err := ParseRate(in)
		if want < 0 && err == nil || want >= 0 && (got != want || err != nil) {
			t.Errorf("ParseRate(%q) = %d, %v, want %d", in, got, err, want)
		}
	}
}

func TestParseDuration(t *testing.T) {
	for in, want := range map[string]time.Duration{"120s": 2 * time.Minute, "0s": 0, "1h30m": 90 * time.Minute, "-1s": -1, "5": -1, "": -1} {
		got, err := ParseDuration(in)
		if want < 0 && err == nil || want >= 0 && (got != want || err != nil) {
			t.Errorf("ParseDuration(%q) = %v, %v, want %v", in, got, err, want)
		}
	}
}

// TestFormatReadsBack: what is printed can be written into the file, and is off by no more than the one decimal shown.
func TestFormatReadsBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.Int64Range(1, 1<<50).Draw(t, "n")
		for _, f := range []struct {
			format func(int64) string
			parse  func(string) (int64, error)
		}{{FormatSize, ParseSize}, {FormatRate, ParseRate}} {
			text := f.format(n)
			back, err := f.parse(text)
			if err != nil {
				t.Fatalf("%d is written %q: %v", n, text, err)
			}
			if off := float64(back-n) / float64(n); off > 0.06 || off < -0.06 {
				t.Fatalf("%d is written %q and read back %d", n, text, back)
			}
		}
	})
}
