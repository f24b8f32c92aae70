package dedupe

// Constants of look.
const (
	randomLeast = 16 << 10 // shorter literals are given to zstd at once
	samples     = 16
	sampleBytes = 256
	// randomSum: of uniformly distributed bytes the squares of the counts add up to n + n (n - 1) / 256 = 69,615 with a deviation of some 360; what
	// gzip, zstd and xz write stays below 72,000, as most of what is in pictures; text is above 900,000.
	randomSum = 76000
	// orderlySum is that of 7 bits in a byte.
	orderlySum = 131072
)

// looks is what bytes look like.
type looks uint8

const (
	unclear looks = iota
	random        // zstd is likely to gain nothing
	orderly       // zstd gains for sure
)

// look judges p by a sample of 4 KiB, taken evenly: whether zstd would find bytes that are rare. That there are repeats it cannot see, but what was sent
// before is found by the history.
func look(p []byte) looks {
	if len(p) < randomLeast {
		return unclear
	}
	var counts [2][256]uint16 // two, so that runs of one byte do not wait for each other
	step := (len(p) - sampleBytes) / (samples - 1)
	for i := range samples {
		s := p[i*step:][:sampleBytes]
		for k := 0; k < sampleBytes; k += 2 {
			counts[0][s[k]]++
			counts[1][s[k+1]]++
		}
	}
	sum := 0
	for i := range counts[0] {
		n := int(counts[0][i]) + int(counts[1][i])
		sum += n * n
	}
	switch {
	case sum < randomSum:
		return random
	case sum > orderlySum:
		return orderly
	}
	return unclear
}
