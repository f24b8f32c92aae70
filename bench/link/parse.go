package link

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Parse applies words such as
//
//	both delay=50ms rate=20mbit queue=auto a2b loss=0.1% burst=4
//
// to base and returns the result; base itself is not changed, and on an error nothing is. A word is either a direction (a2b, b2a, both)
// that the words after it are about (both at the start), down or up, or name=value:
//
//	delay, jitter, gap   a duration: 50ms, 1.5s, 200us
//	rate                 20mbit, 1.5gbit, 512kbit, 64000 (bit/s); 0 or unlimited
//	queue                64KiB, 1250kB, 3MiB, 65536 (bytes); 0 or auto is one bandwidth-delay product
//	loss, reorder        a percentage with its sign: 0.1%
//	burst                mean number of packets lost in a row: 4
//	overhead, mtu        bytes
//
// Every error wraps ErrParameter and names the word.
func Parse(base Pair, words ...string) (Pair, error) {
	p := base
	selected := []*Params{&p.AtoB, &p.BtoA}
	for _, word := range words {
		switch word {
		case "a2b":
			selected = []*Params{&p.AtoB}
			continue
		case "b2a":
			selected = []*Params{&p.BtoA}
			continue
		case "both":
			selected = []*Params{&p.AtoB, &p.BtoA}
			continue
		}
		for _, one := range selected {
			if err := one.set(word); err != nil {
				return base, err
			}
		}
	}
	if err := p.Validate(); err != nil {
		return base, err
	}
	return p, nil
}

func (p *Params) set(word string) error {
	name, value, hasValue := strings.Cut(word, "=")
	if name == "down" || name == "up" {
		if hasValue {
			return fmt.Errorf("%w %q: %s stands alone", ErrParameter, word, name)
		}
		p.Down = name == "down"
		return nil
	}
	var err error
	switch name {
	case "delay":
		p.Delay, err = parseDuration(value)
	case "jitter":
		p.Jitter, err = parseDuration(value)
	case "gap":
		p.Gap, err = parseDuration(value)
	case "rate":
		p.RateBitsPerSec, err = parseRate(value)
	case "queue":
		p.QueueBytes, err = parseSize(value)
	case "loss":
		p.Loss, err = parsePercent(value)
	case "reorder":
		p.Reorder, err = parsePercent(value)
	case "burst":
		p.Burst, err = parseNumber(value, "", nil)
	case "overhead":
		p.OverheadBytes, err = parseInt(value)
	case "mtu":
		p.MTU, err = parseInt(value)
	default:
		return fmt.Errorf("%w %q is not known: want a2b, b2a, both, down, up or one of delay= jitter= rate= queue= loss= burst= reorder= gap= mtu= overhead=",
			ErrParameter, word)
	}
	if err != nil {
		return fmt.Errorf("%w %q: %w", ErrParameter, word, err)
	}
	return nil
}

func parseDuration(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, fmt.Errorf("%q is no duration, want one like 50ms or 1.5s", s)
	}
	return d, nil
}

func parseInt(s string) (int, error) {
	n, err := strconv.ParseInt(s, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("%q is no whole number of bytes", s)
	}
	return int(n), nil
}

func parsePercent(s string) (float64, error) {
	number, isPercent := strings.CutSuffix(s, "%")
	f, err := strconv.ParseFloat(number, 64)
	if err != nil || math.IsNaN(f) || math.IsInf(f, 0) || (!isPercent && f != 0) {
		return 0, fmt.Errorf("%q is no percentage, want one like 0.1%%", s)
	}
	return f / 100, nil
}

func parseRate(s string) (int64, error) {
	if s == "unlimited" {
		return 0, nil
	}
	f, err := parseNumber(s, "rate, want one like 20mbit", map[string]float64{"": 1, "bit": 1, "kbit": 1e3, "mbit": 1e6, "gbit": 1e9})
	if err == nil && f > maxRate {
		err = fmt.Errorf("%q is more than 1000gbit", s)
	}
	return int64(math.Round(f)), err
}

func parseSize(s string) (int64, error) {
	if s == "auto" {
		return 0, nil
	}
	f, err := parseNumber(s, "size, want one like 64KiB", map[string]float64{"": 1, "b": 1,
		"k": 1e3, "kb": 1e3, "m": 1e6, "mb": 1e6, "g": 1e9, "gb": 1e9, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30})
	if err == nil && f > maxQueueBytes {
		err = fmt.Errorf("%q is more than 16GiB", s)
	}
	return int64(math.Round(f)), err
}

// parseNumber reads a number that is neither negative nor endless, with one of the units (lower case) behind it.
func parseNumber(s, what string, units map[string]float64) (float64, error) {
	end := strings.LastIndexAny(s, "0123456789.") + 1
	number, unit := s[:end], strings.ToLower(s[end:])
	scale, ok := units[unit]
	if units == nil {
		what, scale, ok = "number", 1, unit == ""
	}
	f, err := strconv.ParseFloat(number, 64)
	if err != nil || !ok || !(f >= 0) || f > math.MaxInt64/2 {
		return 0, fmt.Errorf("%q is no %s", s, what)
	}
	return f * scale, nil
}

// Words returns p as words that Parse reads back to the same parameters; those at their zero value are left out.
func (p Params) Words() []string {
	var w []string
	add := func(present bool, word string) {
		if present {
			w = append(w, word)
		}
	}
	add(p.Delay != 0, "delay="+p.Delay.String())
	add(p.Jitter != 0, "jitter="+p.Jitter.String())
	add(p.RateBitsPerSec != 0, "rate="+formatRate(p.RateBitsPerSec))
	add(p.QueueBytes != 0, "queue="+formatSize(p.QueueBytes))
	add(p.OverheadBytes != 0, "overhead="+strconv.Itoa(p.OverheadBytes))
	add(p.Loss != 0, "loss="+formatPercent(p.Loss))
	add(p.Burst != 0, "burst="+strconv.FormatFloat(p.Burst, 'f', -1, 64))
	add(p.Reorder != 0, "reorder="+formatPercent(p.Reorder))
	add(p.Gap != 0, "gap="+p.Gap.String())
	add(p.MTU != 0, "mtu="+strconv.Itoa(p.MTU))
	add(p.Down, "down")
	return w
}

// String is Words in one line.
func (p Params) String() string { return strings.Join(p.Words(), " ") }

// Words returns both directions as words that Parse, starting from the zero Pair, reads back.
func (p Pair) Words() []string {
	if p.AtoB == p.BtoA {
		return append([]string{"both"}, p.AtoB.Words()...)
	}
	w := append([]string{"a2b"}, p.AtoB.Words()...)
	return append(append(w, "b2a"), p.BtoA.Words()...)
}

// String is Words in one line.
func (p Pair) String() string { return strings.Join(p.Words(), " ") }

func formatRate(bitsPerSec int64) string {
	for _, u := range []struct {
		size int64
		name string
	}{{1e9, "gbit"}, {1e6, "mbit"}, {1e3, "kbit"}} {
		if bitsPerSec%u.size == 0 {
			return strconv.FormatInt(bitsPerSec/u.size, 10) + u.name
		}
	}
	return strconv.FormatInt(bitsPerSec, 10)
}

func formatSize(bytes int64) string {
	for _, u := range []struct {
		size int64
		name string
	}{{1 << 30, "GiB"}, {1 << 20, "MiB"}, {1 << 10, "KiB"}} {
		if bytes%u.size == 0 {
			return strconv.FormatInt(bytes/u.size, 10) + u.name
		}
	}
	return strconv.FormatInt(bytes, 10)
}
