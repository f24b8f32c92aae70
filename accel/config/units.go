package config

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// ErrUnit is wrapped by every error about a size, a rate or a duration.
var ErrUnit = errors.New("unreadable quantity")

// sizeUnits are factors in bytes: powers of two for the IEC units, of ten for the SI ones.
var sizeUnits = map[string]float64{
	"b": 1, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40,
	"kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12,
}

// rateUnits are factors in bits per second.
var rateUnits = map[string]float64{
	"bit": 1, "kbit": 1e3, "mbit": 1e6, "gbit": 1e9,
	"bit/s": 1, "kbit/s": 1e3, "mbit/s": 1e6, "gbit/s": 1e9,
}

// ParseSize reads a size in bytes, such as "64GiB", "1.5 TB" or "4096B". A unit is required: a bare number is too easily a mistake.
func ParseSize(s string) (int64, error) {
	return quantity(s, sizeUnits, "size", "64GiB")
}

// ParseRate reads a rate in bits per second, such as "100mbit" or "2.5 Gbit/s".
func ParseRate(s string) (int64, error) {
	return quantity(s, rateUnits, "rate", "100mbit")
}

// ParseDuration reads a duration as Go writes it, such as "120s" or "2m"; negative ones are refused.
func ParseDuration(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return 0, fmt.Errorf("%w: %q is no duration, write it such as 120s or 2m", ErrUnit, s)
	}
	return d, nil
}

func quantity(s string, units map[string]float64, what, example string) (int64, error) {
	fault := fmt.Errorf("%w: %q is no %s, write a number and a unit such as %s", ErrUnit, s, what, example)
	i := strings.IndexFunc(s, func(r rune) bool { return (r < '0' || r > '9') && r != '.' })
	if i <= 0 {
		return 0, fault
	}
	n, err := strconv.ParseFloat(s[:i], 64)
	if err != nil {
		return 0, fault
	}
	factor, ok := units[strings.ToLower(strings.TrimSpace(s[i:]))]
	if !ok {
		return 0, fault
	}
	v := n * factor
	if v >= math.MaxInt64 {
		return 0, fmt.Errorf("%w: %q is too large", ErrUnit, s)
	}
	return int64(v), nil
}

// FormatSize writes a size in bytes with the largest IEC unit that leaves at least 1, with at most one decimal.
func FormatSize(n int64) string {
	switch {
	case n >= 1<<40:
		return trimmed(n, 1<<40, "TiB")
	case n >= 1<<30:
		return trimmed(n, 1<<30, "GiB")
	case n >= 1<<20:
		return trimmed(n, 1<<20, "MiB")
	case n >= 1<<10:
		return trimmed(n, 1<<10, "KiB")
	}
	return strconv.FormatInt(n, 10) + "B"
}

// FormatRate writes a rate in bits per second with the largest unit that leaves at least 1, with at most one decimal.
func FormatRate(n int64) string {
	switch {
	case n >= 1e9:
		return trimmed(n, 1e9, "gbit")
	case n >= 1e6:
		return trimmed(n, 1e6, "mbit")
	case n >= 1e3:
		return trimmed(n, 1e3, "kbit")
	}
	return strconv.FormatInt(n, 10) + "bit"
}

func trimmed(n int64, unit float64, name string) string {
	return strings.TrimSuffix(strconv.FormatFloat(float64(n)/unit, 'f', 1, 64), ".0") + name
}
