package scenario

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"image"
	"image/jpeg"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"wanpair/bench/corpus"
	"wanpair/bench/report"
	"wanpair/bench/server"
)

// Pictures of a user's directory: tiles of the large photographs and paintings of the corpus, as a viewer that zooms keeps them. Nothing in a JPEG
// tells that its neighbour was cut from the same original.
const (
	pictureCount   = 11_500
	pictureSide    = 128 // pixels
	pictureQuality = 85
	pictureLeast   = 1500 // bytes; less is a tile of one colour
	perAlbum       = 250
)

// cutPictures writes pictures below dir, at most count and most bytes, and returns how many.
func cutPictures(ctx context.Context, images, dir string, count int, most int64) (int, error) {
	originals, err := os.MkdirTemp(filepath.Dir(dir), "originals")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(originals)
	in, err := os.Open(images)
	if err != nil {
		return 0, err
	}
	defer in.Close()
	if _, err := corpus.Unpack(in, originals, func(name string, _ int64) bool { return filepath.Ext(name) == ".webp" }); err != nil {
		return 0, err
	}
	names, err := filepath.Glob(filepath.Join(originals, "*", "*.webp"))
	if err != nil {
		return 0, err
	}
	slices.Sort(names)
	a := album{dir: dir, count: count, most: most}
	for _, name := range names {
		original, err := decodeWebP(ctx, name)
		if err != nil {
			return a.n, err
		}
		if full, err := a.cut(original); err != nil || full {
			return a.n, err
		}
	}
	return a.n, nil
}

// decodeWebP has dwebp decode a file.
func decodeWebP(ctx context.Context, name string) (image.Image, error) {
	path, err := server.Tool("dwebp")
	if err != nil {
		return nil, err
	}
	out, err := exec.CommandContext(ctx, path, "-quiet", "-ppm", name, "-o", "-").Output()
	if err != nil {
		return nil, fmt.Errorf("dwebp %s: %w", filepath.Base(name), err)
	}
	return parsePPM(bytes.NewReader(out))
}

var errPPM = errors.New("not a PPM picture of 8 bits")

// parsePPM reads the simplest of formats: P6, width, height, 255, then three bytes for each pixel (ppm(5)).
func parsePPM(r io.Reader) (image.Image, error) {
	const mostPixels = 1 << 28
	b := bufio.NewReader(r)
	var width, height, depth int
	if _, err := fmt.Fscanf(b, "P6\n%d %d\n%d\n", &width, &height, &depth); err != nil || depth != 255 || width <= 0 || height <= 0 || width > mostPixels/height {
		return nil, errPPM
	}
	picture := image.NewRGBA(image.Rect(0, 0, width, height))
	line := make([]byte, 3*width)
	for y := range height {
		if _, err := io.ReadFull(b, line); err != nil {
			return nil, fmt.Errorf("%w: %w", errPPM, err)
		}
		row := picture.Pix[y*picture.Stride:]
		for x := range width {
			copy(row[4*x:], line[3*x:3*x+3])
			row[4*x+3] = 0xff
		}
	}
	return picture, nil
}

// album is a directory being filled.
type album struct {
	dir   string
	count int
	most  int64
	n     int
	bytes int64
}

// cut adds the tiles of a picture; full says that no more are wanted.
func (a *album) cut(original image.Image) (full bool, err error) {
	whole, ok := original.(*image.RGBA)
	if !ok {
		return false, errPPM
	}
	var tile bytes.Buffer
	for y := 0; y+pictureSide <= whole.Rect.Dy(); y += pictureSide {
		for x := 0; x+pictureSide <= whole.Rect.Dx(); x += pictureSide {
			tile.Reset()
			if err := jpeg.Encode(&tile, whole.SubImage(image.Rect(x, y, x+pictureSide, y+pictureSide)), &jpeg.Options{Quality: pictureQuality}); err != nil {
				return false, err
			}
			if tile.Len() < pictureLeast {
				continue
			}
			if a.n == a.count || a.bytes+int64(tile.Len()) > a.most {
				return true, nil
			}
			folder := filepath.Join(a.dir, fmt.Sprintf("%03d", a.n/perAlbum))
			if err := os.MkdirAll(folder, 0o755); err != nil {
				return false, err
			}
			if err := os.WriteFile(filepath.Join(folder, fmt.Sprintf("%05d.jpg", a.n)), tile.Bytes(), 0o644); err != nil {
				return false, err
			}
			a.n++
			a.bytes += int64(tile.Len())
		}
	}
	return false, nil
}

func preparePictures(ctx context.Context, kit Kit) (Material, error) {
	root := filepath.Join(kit.Dir, "root", "pictures")
	if err := os.MkdirAll(root, 0o755); err != nil {
		return Material{}, err
	}
	n, err := cutPictures(ctx, filepath.Join(kit.Corpus, "images", "images.tar"), root, pictureCount, kit.Bytes)
	if err == nil && n == 0 {
		err = fmt.Errorf("%w: not one picture", ErrTooLong)
	}
	if err != nil {
		return Material{}, err
	}
	want, bytes, err := corpus.HashTree(root, nil)
	return Material{Open: func(ctx context.Context, stage Stage) (Play, error) {
		daemon, err := server.StartRsync(ctx, stage.Server, filepath.Join(stage.Dir, "rsyncd"), filepath.Join(kit.Dir, "root"))
		if err != nil {
			return nil, err
		}
		return &phasePlay{stops: []func() error{daemon.Stop}, phase: func(ctx context.Context, phase string, m *Meter) (report.Run, error) {
			into := filepath.Join(stage.Dir, "got "+phase)
			run, err := m.Measure(ctx, func(ctx context.Context) (Work, error) {
				return Work{Bytes: bytes}, daemon.Pull(ctx, stage.Client, "pictures", into)
			})
			if err != nil {
				return run, err
			}
			got, _, err := corpus.HashTree(into, nil)
			if err != nil {
				return run, err
			}
			run.Items = int64(n)
			return run, same("pictures", got, want)
		}}, nil
	}}, err
}
