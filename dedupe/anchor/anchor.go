// Package anchor names points in a byte stream by its content.
//
// A Gear rolling hash runs over the stream; where its top bits are zero lies an anchor: the position just behind a window of [Window] bytes.
// Whether there is an anchor depends on the last [Roller] bytes, its name on the whole window. The same window gives the same anchor wherever
// it stands, so two streams that share a passage share its anchors. Matches are looked up at anchors and then grown byte by byte with [Forward]
// and [Backward], so the density of anchors decides how small a passage can be found, not how exactly it is cut.
//
// The lengths were measured: with shorter windows more of them stand in several places, of which an index can keep few, and matches begin at
// the wrong one; with longer ones small passages are missed.
//
// The package keeps no state and promises that its results never change between versions of the program: anchors are stored on disk.
package anchor

import "github.com/cespare/xxhash/v2"

// Window is the number of bytes that an anchor's fingerprint depends on, Roller the number that decide whether it is one.
const (
	Window = 80
	Roller = 64
)

// FingerprintBits is the number of significant bits of a fingerprint.
const FingerprintBits = 46

// Densities that may be configured: one anchor in 2^d bytes on average.
const (
	MinDensity = 8
	MaxDensity = 15
)

// gear maps a byte to a pseudo-random word; the top bit of the running sum depends on the last 64 bytes and on no older one.
var gear = gearTable()

func gearTable() (t [256]uint64) {
	x := uint64(0x77616e7061697231)
	for i := range t {
		x += 0x9e3779b97f4a7c15 // splitmix64, Steele, Lea and Flood 2014
		z := x
		z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9
		z = (z ^ (z >> 27)) * 0x94d049bb133111eb
		t[i] = z ^ (z >> 31)
	}
	return t
}

// Mask returns the mask for one anchor in 2^density bytes. Masks nest: every anchor of a sparser mask is one of a denser mask.
func Mask(density int) uint64 {
	return ^uint64(0) << (64 - density)
}

// Roll returns the rolling hash after src was fed to it; only the last 64 bytes matter.
func Roll(h uint64, src []byte) uint64 {
	if len(src) > Roller {
		src = src[len(src)-Roller:]
	}

	for _, c := range src {
		h = h<<1 + gear[c]
	}
	return h
}

// Scan feeds src to the rolling hash until an anchor is met. It returns the number of bytes taken, the hash after them, and whether
// an anchor lies just behind them; without one all of src was taken. The caller makes sure that a whole window went by
// before it trusts an anchor.
func Scan(h, mask uint64, src []byte) (n int, hash uint64, found bool) {
	s := src
	for len(s) >= 8 {
		h = h<<1 + gear[s[0]]
		if h&mask == 0 {
			return len(src) - len(s) + 1, h, true
		}
		h = h<<1 + gear[s[1]]
		if h&mask == 0 {
			return len(src) - len(s) + 2, h, true
		}
		h = h<<1 + gear[s[2]]
		if h&mask == 0 {
			return len(src) - len(s) + 3, h, true
		}
		h = h<<1 + gear[s[3]]
		if h&mask == 0 {
			return len(src) - len(s) + 4, h, true
		}
		h = h<<1 + gear[s[4]]
		if h&mask == 0 {
			return len(src) - len(s) + 5, h, true
		}
		h = h<<1 + gear[s[5]]
		if h&mask == 0 {
			return len(src) - len(s) + 6, h, true
		}
		h = h<<1 + gear[s[6]]
		if h&mask == 0 {
			return len(src) - len(s) + 7, h, true
		}
		h = h<<1 + gear[s[7]]
		if h&mask == 0 {
			return len(src) - len(s) + 8, h, true
		}
		s = s[8:]
	}
	for i, c := range s {
		h = h<<1 + gear[c]
		if h&mask == 0 {
			return len(src) - len(s) + i + 1, h, true
		}
	}
	return len(src), h, false
}

// Fingerprint returns the 46-bit fingerprint of the [Window] bytes before an anchor. It is a name, never a proof: whoever finds an equal one
// compares the bytes.
func Fingerprint(window []byte) uint64 {
	return xxhash.Sum64(window[:Window]) >> (64 - FingerprintBits)
}
