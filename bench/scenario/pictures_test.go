package scenario

import (
	"errors"
	"fmt"
	"image"
	"image/jpeg"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// noise is a picture whose left half is of one colour.
func noise(width, height int) *image.RGBA {
	r := rand.New(rand.NewPCG(1, 2))
	p := image.NewRGBA(image.Rect(0, 0, width, height))
	for i := 0; i < len(p.Pix); i += 4 {
		if x := i % p.Stride / 4; x >= width/2 {
			p.Pix[i], p.Pix[i+1], p.Pix[i+2] = uint8(r.Uint32()), uint8(r.Uint32()), uint8(r.Uint32())
		}
		p.Pix[i+3] = 0xff
	}
	return p
}

func TestAlbum(t *testing.T) {
	a := album{dir: t.TempDir(), count: 10, most: 1 << 30}
	if full, err := a.cut(noise(6*pictureSide, 2*pictureSide+5)); full || err != nil || a.n != 6 { // 3 of 6 tiles in each of 2 rows are of one colour
		t.Fatalf("%d pictures, full %v, %v", a.n, full, err)
	}
	if full, err := a.cut(noise(6*pictureSide, 2*pictureSide)); !full || err != nil || a.n != 10 {
		t.Fatalf("%d pictures, full %v, %v", a.n, full, err)
	}
	files, err := filepath.Glob(filepath.Join(a.dir, "000", "*.jpg"))
	if err != nil || len(files) != 10 {
		t.Fatal(files, err)
	}
	f, err := os.Open(files[9])
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if p, err := jpeg.Decode(f); err != nil || p.Bounds().Dx() != pictureSide || p.Bounds().Dy() != pictureSide {
		t.Fatalf("%v: %v", files[9], err)
	}
	small := album{dir: t.TempDir(), count: 10, most: a.bytes / 2}
	if full, err := small.cut(noise(6*pictureSide, 4*pictureSide)); !full || err != nil || small.bytes > small.most || small.n == 0 || small.n >= 10 {
		t.Fatalf("%d pictures of %d bytes, full %v, %v", small.n, small.bytes, full, err)
	}
}

func TestParsePPM(t *testing.T) {
	p, err := parsePPM(strings.NewReader("P6\n2 1\n255\nabcdef"))
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(p.At(0, 0), p.At(1, 0)); got != "{97 98 99 255} {100 101 102 255}" {
		t.Fatal(got)
	}
	for _, bad := range []string{"", "P5\n2 1\n255\nabcdef", "P6\n2 1\n255\nabc", "P6\n2 1\n65535\nabcdef", "P6\n-2 1\n255\nabcdef", "P6\n1000000 1000000\n255\n"} {
		if _, err := parsePPM(strings.NewReader(bad)); !errors.Is(err, errPPM) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
