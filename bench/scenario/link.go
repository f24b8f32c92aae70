package scenario

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// Link is one emulated link of the benchmark; both directions are alike and the queue is one bandwidth-delay product.
type Link struct {
	Name           string
	RateBitsPerSec int64
	RTT            time.Duration
	LossPercent    float64
	// Full marks the links on which every column may be measured; the others have plain TCP and wanpair only.
	Full bool
}

// Links are those of the benchmark: from the smallest appliance's to a data center's. The last one is only for the 64 KB window.
func Links() []Link {
	const mbit = 1_000_000
	ms := func(n int) time.Duration { return time.Duration(n) * time.Millisecond }
	return []Link{
		{Name: "10m-100ms", RateBitsPerSec: 10 * mbit, RTT: ms(100), Full: true},
		{Name: "2m-100ms", RateBitsPerSec: 2 * mbit, RTT: ms(100)},
		{Name: "45m-60ms", RateBitsPerSec: 45 * mbit, RTT: ms(60)},
		{Name: "100m-80ms-0.1%", RateBitsPerSec: 100 * mbit, RTT: ms(80), LossPercent: 0.1},
		{Name: "100m-100ms-1%", RateBitsPerSec: 100 * mbit, RTT: ms(100), LossPercent: 1, Full: true},
		{Name: "20m-300ms-0.5%", RateBitsPerSec: 20 * mbit, RTT: ms(300), LossPercent: 0.5},
		{Name: "1g-50ms", RateBitsPerSec: 1000 * mbit, RTT: ms(50)},
		{Name: "1g-100ms", RateBitsPerSec: 1000 * mbit, RTT: ms(100)},
	}
}

// Words are the parameters as the link emulator reads them.
func (l Link) Words() string {
	words := fmt.Sprintf("both delay=%v rate=%dmbit", l.RTT/2, l.RateBitsPerSec/1_000_000)
	if l.LossPercent > 0 {
		words += fmt.Sprintf(" loss=%g%%", l.LossPercent)
	}
	return words
}

// Payload is how much one phase moves: what the link carries in d, but no more than plain TCP with cubic brings over in the longest time
// that a direct run may take, which on a link with loss is far less. Its rate is estimated as that of Reno: 1.22 segments per round trip
// and root of the loss (Mathis and others, 1997).
func (l Link) Payload(d time.Duration) int64 {
	bytes := l.BytesIn(d)
	if l.LossPercent > 0 {
		const segment = 1448
		perSecond := 1.22 * segment / l.RTT.Seconds() / math.Sqrt(l.LossPercent/100)
		bytes = min(bytes, int64(perSecond*longest.Seconds()))
	}
	return bytes
}

// windowBytes is what arrives in d when no more than 64 KB are ever under way.
func (l Link) windowBytes(d time.Duration) int64 {
	const window = 65535
	return int64(window / l.RTT.Seconds() * d.Seconds())
}

// BytesIn is how much a link carries in d.
func (l Link) BytesIn(d time.Duration) int64 {
	return int64(float64(l.RateBitsPerSec) / 8 * d.Seconds())
}

// Carry is how long n bytes take at the full rate, with the round trip and a half that asking and the first byte take.
func (l Link) Carry(n int64) time.Duration {
	return time.Duration(float64(n)*8/float64(l.RateBitsPerSec)*float64(time.Second)) + l.RTT*3/2
}

// FindLink looks a link up by name.
func FindLink(name string) (Link, error) {
	links := Links()
	i := slices.IndexFunc(links, func(l Link) bool { return l.Name == name })
	if i < 0 {
		var names []string
		for _, l := range links {
			names = append(names, l.Name)
		}
		return Link{}, fmt.Errorf("no link %q: there are %s", name, strings.Join(names, ", "))
	}
	return links[i], nil
}

// duration is how long n bytes take at the full rate alone.
func (l Link) duration(n int64) time.Duration {
	return time.Duration(float64(n) * 8 / float64(l.RateBitsPerSec) * float64(time.Second))
}
