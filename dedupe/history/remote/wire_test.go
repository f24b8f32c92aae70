package remote

import (
	"bytes"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"wanpair/dedupe/history"
)

// requests is one of every kind.
func requests() []*request {
	logs := [2]history.State{{ID: history.LogID{1}, Tail: 5, Head: 9}, {ID: history.LogID{2}}}
	x := history.Extent{Log: 1, First: 77, Count: 8}
	return []*request{
		{kind: kindOpen, open: openRequest{
			cfg:   history.EpochsConfig{Dir: "/var/lib/x", SizeBytes: 1 << 40, BlocksPerEpoch: 131072, Writer: 1 << 63, Key: bytes.Repeat([]byte{9}, history.KeyBytes)},
			known: true, logs: logs, discard: []history.Extent{x, {First: 1, Count: 2}},
		}},
		{kind: kindLogs, logs: logs},
		{kind: kindGet, key: history.Key{Log: 1, Number: 1 << 40}},
		{kind: kindPut, block: history.Sealed{Key: history.Key{Number: 3}, Next: 8, Scope: 1 << 31, Data: []byte("bytes"), Anchors: []uint64{1, 1 << 63}}},
		{kind: kindNote, key: history.Key{Number: 4}, length: history.BlockBytes},
		{kind: kindLengths, extent: x, from: 80},
		{kind: kindAnchors, extent: x, from: 24},
		{kind: kindPing},
		{kind: kindClose},
	}
}

// answers is one of every kind.
func answers() []*answer {
	extents := [2][]history.Extent{{{First: 8, Count: 8}}, {{Log: 1, First: 0, Count: 8}, {Log: 1, First: 8, Count: 3}}}
	return []*answer{
		{kind: kindDone, bytes: 123, full: true},
		{kind: kindStatus, moved: true, extents: extents},
		{kind: kindOpened, logs: [2]history.State{{ID: history.LogID{1}, Tail: 5, Head: 9}, {}}},
		{kind: kindBlock, next: 7, scope: 5, data: []byte("bytes")},
		{kind: kindRecords, next: 99, data: []byte("records")},
		{kind: kindHoldings, next: 100, holdings: []history.Holding{{Number: 100, Length: 1}, {Number: 131, Length: history.BlockBytes}}},
		{kind: kindFailed, code: codeAbsent, reason: "gone"},
	}
}

var compare = cmp.Options{
	cmp.AllowUnexported(request{}, openRequest{}, answer{}),
	cmp.Transformer("list", func(b []uint64) []uint64 { return append([]uint64{}, b...) }), // empty and nil are the same
}

func TestRequestsRoundTrip(t *testing.T) {
	for _, q := range requests() {
		got, err := parseRequest(q.kind, q.append(nil))
		if err != nil {
			t.Errorf("kind %d: %v", q.kind, err)
			continue
		}
		if diff := cmp.Diff(q, got, compare); diff != "" {
			t.Errorf("kind %d: %s", q.kind, diff)
		}
	}
}

func TestAnswersRoundTrip(t *testing.T) {
	for _, a := range answers() {
		got, err := parseAnswer(a.kind, append(a.append(nil), a.data...))
		if err != nil {
			t.Errorf("kind %d: %v", a.kind, err)
			continue
		}
		if diff := cmp.Diff(a, got, compare); diff != "" {
			t.Errorf("kind %d: %s", a.kind, diff)
		}
	}
}

// TestCutBodiesAreRefused cuts every body short and adds a byte to it.
func TestCutBodiesAreRefused(t *testing.T) {
	refused := func(what string, k kind, err error) {
		t.Helper()
		if !errors.Is(err, ErrFrame) {
			t.Errorf("%s of kind %d: %v", what, k, err)
		}
	}
	for _, q := range requests() {
		b := q.append(nil)
		for n := range b {
			_, err := parseRequest(q.kind, b[:n])
			refused("cut request", q.kind, err)
		}
		_, err := parseRequest(q.kind, append(b, 0))
		refused("long request", q.kind, err)
	}
	for _, a := range answers() {
		b := append(a.append(nil), a.data...)
		for n := range b {
			_, err := parseAnswer(a.kind, b[:n])
			refused("cut answer", a.kind, err)
		}
		_, err := parseAnswer(a.kind, append(b, 0))
		refused("long answer", a.kind, err)
	}
}

func TestFrameTooLong(t *testing.T) {
	b := header{kindPut, 1, maxBody + 1}.append(nil)
	if _, _, err := readFrame(bytes.NewReader(b), nil); !errors.Is(err, ErrFrame) {
		t.Errorf("a body beyond the limit: %v", err)
	}
}

// TestCutFrames reads a frame that ends anywhere, into a buffer that is large enough and into one that is not.
func TestCutFrames(t *testing.T) {
	body := []byte("body of a frame")
	whole := append(header{kindPut, 7, len(body)}.append(nil), body...)
	for _, buf := range [][]byte{nil, make([]byte, 100)} {
		h, got, err := readFrame(bytes.NewReader(whole), buf)
		if err != nil || h.kind != kindPut || h.id != 7 || !bytes.Equal(got, body) {
			t.Errorf("%+v, %q, %v", h, got, err)
		}
		for n := range whole {
			if _, _, err := readFrame(bytes.NewReader(whole[:n]), buf); err == nil {
				t.Errorf("a frame of %d bytes out of %d", len(whole), n)
			}
		}
	}
}

func TestLargestFramesFit(t *testing.T) {
	q := &request{kind: kindPut, block: history.Sealed{Data: make([]byte, history.BlockBytes), Anchors: make([]uint64, history.BlockBytes)}}
	if n := len(q.append(nil)); n > maxBody {
		t.Errorf("a block with all its anchors takes %d bytes", n)
	}
	a := &answer{kind: kindRecords, data: make([]byte, history.MaxAnchorBytes)}
	if n := len(a.append(nil)) + len(a.data); n > maxBody {
		t.Errorf("anchor records take %d bytes", n)
	}
}

// FuzzRequest: what parses is what it was made of, and nothing is allocated beyond a small multiple of the body.
func FuzzRequest(f *testing.F) {
	for _, q := range requests() {
		f.Add(byte(q.kind), q.append(nil))
	}
	f.Fuzz(func(t *testing.T, k byte, body []byte) {
		q, err := parseRequest(kind(k), body)
		if err != nil {
			return
		}
		again, err := parseRequest(q.kind, q.append(nil))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(q, again, compare); diff != "" {
			t.Error(diff)
		}
	})
}

// FuzzAnswer is FuzzRequest for the other direction.
func FuzzAnswer(f *testing.F) {
	for _, a := range answers() {
		f.Add(byte(a.kind), append(a.append(nil), a.data...))
	}
	f.Fuzz(func(t *testing.T, k byte, body []byte) {
		a, err := parseAnswer(kind(k), body)
		if err != nil {
			return
		}
		again, err := parseAnswer(a.kind, append(a.append(nil), a.data...))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(a, again, compare); diff != "" {
			t.Error(diff)
		}
	})
}
