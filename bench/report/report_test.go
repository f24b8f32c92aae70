package report

import (
	"bytes"
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var update = flag.Bool("update", false, "write the golden files anew")

// sample is a report with everything that can be shown.
func sample() *Report {
	r := &Report{
		Started: time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC), Seed: 7,
		Machine: Machine{Commit: "0123abc", Go: "go1.26.0", Kernel: "6.1.0", CPU: "Test <CPU> & Co", Cores: 2, MemoryBytes: 24 << 30},
		Notes:   []string{"sizes scaled to 20 s of the link"},
	}
	series := func(seconds, bits float64) []Point {
		var s []Point
		for i := range 11 {
			t := seconds * float64(i) / 10
			s = append(s, Point{Seconds: t, LANBits: bits * min(1, t), WireBits: bits, LagBytes: int64(i * 1000)})
		}
		return s
	}
	add := func(phase, column string, baseline bool, seconds float64, wire int64) {
		row := r.Row(Key{"dump", phase, "10m-100ms", column})
		row.LinkParams, row.Baseline = "both delay=50ms rate=10mbit", baseline
		if baseline {
			row.Congestion, row.Buffers = column[len("direct-"):], "default"
		}
		for i := range 3 {
			noise := 1 + 0.02*float64(i-1)
			run := Run{Seconds: seconds * noise, PayloadBytes: 12_000_000, Wire: Wire{AtoB: wire / 20, BtoA: wire}, Series: series(seconds, 96e8/seconds/100)}
			if column == "wanpair" {
				run.CPUSeconds, run.RSSBytes = 0.8*noise, 150<<20
			}
			row.Runs = append(row.Runs, run)
		}
	}
	for _, phase := range []string{"cold", "again", "changed"} {
		add(phase, "direct-cubic", true, 10, 12_400_000)
		add(phase, "direct-bbr", true, 10.4, 12_500_000)
	}
	add("cold", "wanpair", false, 2.5, 2_900_000)
	add("again", "wanpair", false, 0.21, 11_000)
	add("changed", "wanpair", false, 0.31, 60_000)
	ideal := r.Row(Key{"dump", "changed", "10m-100ms", "ideal"})
	ideal.Runs = []Run{{Seconds: 0.13, PayloadBytes: 12_000_000, Wire: Wire{BtoA: 40_000}, Calculated: true}}
	ideal.LinkParams = "both delay=50ms rate=10mbit"
	kcptun := r.Row(Key{"dump", "cold", "10m-100ms", "kcptun"})
	kcptun.Missing, kcptun.LinkParams = "program is not installed: kcptun-client (Debian package kcptun)", "both delay=50ms rate=10mbit"
	void := r.Row(Key{"web", "cold", "10m-100ms", "wanpair"})
	void.LinkParams = "both delay=50ms rate=10mbit"
	void.Runs = []Run{
		{Seconds: 3, Latency: &Latency{Count: 100, P50: 0.101, P90: 0.11, P99: 0.13, Max: 0.2}, Wire: Wire{AtoB: 1000, BtoA: 2000}},
		{Seconds: 99, Void: "link was late"},
	}
	return r
}

func aboutSample() []About {
	return []About{{"web", "Small pages", "nginx and wrk"}, {"dump", "Nightly dump", "pg_dump over the link, <two> nights"}}
}

func targetsSample() []Target {
	return []Target{
		{Scenario: "dump", Phase: "again", Metric: "time", Least: 30},
		{Scenario: "dump", Phase: "changed", Metric: "time", Least: 50, Why: "two round trips <take> their time"},
		{Scenario: "dump", Phase: "changed", Metric: "wire bytes", Against: "direct-bbr", Least: 100},
		{Scenario: "dump", Phase: "cold", Metric: "wire bytes", Link: "other", Least: 4},
	}
}

func TestGolden(t *testing.T) {
	r := sample()
	page, err := r.HTML(aboutSample(), targetsSample())
	if err != nil {
		t.Fatal(err)
	}
	after := sample()
	after.Find(Key{"dump", "again", "10m-100ms", "wanpair"}).Runs = []Run{{Seconds: 0.5, Wire: Wire{BtoA: 11_000}}, {Seconds: 0.52, Wire: Wire{BtoA: 11_100}}}
	for name, got := range map[string][]byte{
		"report.md":   []byte(r.Markdown(aboutSample(), targetsSample())),
		"report.txt":  []byte(r.Text()),
		"report.html": page,
		"compare.txt": []byte(CompareText(Compare(r, after))),
	} {
		path := filepath.Join("testdata", name)
		if *update {
			if err := os.WriteFile(path, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), string(got)); diff != "" {
			t.Errorf("%s (go test ./bench/report -update writes it anew): %s", name, diff)
		}
	}
}

func TestPageNeedsNothingElse(t *testing.T) {
	page, err := sample().HTML(aboutSample(), targetsSample())
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"<script", "http:", "https:", "@import", "url(", "ZgotmplZ", "NaN", "Inf"} {
		if bytes.Contains(page, []byte(bad)) {
			t.Errorf("the page holds %q", bad)
		}
	}
	if !bytes.Contains(page, []byte("Test &lt;CPU&gt; &amp; Co")) {
		t.Error("text is not escaped")
	}
	// Every picture is well-formed on its own.
	for i, part := range strings.Split(string(page), "<svg")[1:] {
		svg := "<svg" + part[:strings.Index(part, "</svg>")+len("</svg>")]
		for decoder := xml.NewDecoder(strings.NewReader(svg)); ; {
			if _, err := decoder.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("picture %d: %v", i, err)
			}
		}
	}
}

func TestWriteRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "r.json")
	want := sample()
	if err := want.Write(path); err != nil {
		t.Fatal(err)
	}
	got, err := Read(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for _, text := range []string{"", "{", `{"format":99}`, "[]"} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := Read(path); !errors.Is(err, ErrFormat) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// A run that does not count, or the one that happened to get most done, must not flatter the others.
func TestRatiosAreByTheByteOfRunsThatCount(t *testing.T) {
	base := &Row{Runs: []Run{{Seconds: 5, PayloadBytes: 200}}}
	row := &Row{Runs: []Run{
		{Seconds: 5, PayloadBytes: 400}, {Seconds: 5, PayloadBytes: 300}, {Seconds: 5, PayloadBytes: 250}, {Seconds: 5, PayloadBytes: 9000, Void: "late"},
	}}
	if got, ok := perPayload(base, row, metric("time")); !ok || math.Abs(got-1.5) > 1e-9 {
		t.Errorf("%v %v, want 1.5", got, ok)
	}
	if _, ok := perPayload(nil, row, metric("time")); ok {
		t.Error("a ratio to nothing")
	}
}

func TestMerge(t *testing.T) {
	first, second := sample(), &Report{Seed: 9, Notes: []string{"sizes scaled to 20 s of the link", "more"}}
	key := Key{"dump", "again", "10m-100ms", "wanpair"}
	second.Row(key).Runs = []Run{{Seconds: 1}}
	second.Row(Key{"dump", "again", "2m-100ms", "wanpair"}).Runs = []Run{{Seconds: 2}}
	got := Merge(first, second)
	if len(got.Rows) != len(first.Rows)+1 || got.Seed != 9 || len(got.Notes) != 2 || len(got.Find(key).Runs) != 1 {
		t.Errorf("%d rows, %v, %+v", len(got.Rows), got.Notes, got.Find(key))
	}
}

func TestJudgeSummaries(t *testing.T) {
	m := metric("time")
	one := func(v float64) Summary { return Summary{Runs: 1, Min: v, Median: v, Max: v} }
	for _, c := range []struct {
		name     string
		old, new Summary
		want     Verdict
	}{
		{"equal", Summary{3, 9, 10, 11}, Summary{3, 9, 10, 11}, Same},
		{"overlap", Summary{3, 9, 10, 12}, Summary{3, 11, 13, 14}, Same},
		{"apart, slower", Summary{3, 9, 10, 11}, Summary{3, 12, 13, 14}, Worse},
		{"apart, faster", Summary{3, 12, 13, 14}, Summary{3, 9, 10, 11}, Better},
		{"apart by less than the floor", Summary{3, 9.9, 10, 10.1}, Summary{3, 10.2, 10.3, 10.4}, Same},
		{"single runs, close", one(10), one(11), Same},
		{"single runs, far", one(10), one(12), Worse},
	} {
		if got := judge(m, c.old, c.new); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

func TestCompareIsAntisymmetric(t *testing.T) {
	opposite := map[Verdict]Verdict{Better: Worse, Worse: Better, Same: Same}
	rapid.Check(t, func(t *rapid.T) {
		draw := func(name string) Summary {
			row := Row{}
			for _, v := range rapid.SliceOfN(rapid.Float64Range(0.001, 1000), 1, 6).Draw(t, name) {
				row.Runs = append(row.Runs, Run{Seconds: v})
			}
			s, ok := Summarize(&row, metric("time"))
			if !ok || s.Min > s.Median || s.Median > s.Max {
				t.Fatalf("%+v", s)
			}
			return s
		}
		a, b := draw("a"), draw("b")
		if got, back := judge(metric("time"), a, b), judge(metric("time"), b, a); back != opposite[got] {
			t.Fatalf("%s there, %s back", got, back)
		}
	})
}

func TestFormats(t *testing.T) {
	for _, c := range []struct{ got, want string }{
		{Seconds(0), "0 s"}, {Seconds(0.000015), "15.0 µs"}, {Seconds(0.1004), "100 ms"}, {Seconds(1.234), "1.23 s"}, {Seconds(1234), "1234 s"},
		{Bytes(9_999_600), "10.0 MB"}, {Bytes(0), "0 B"}, {Bytes(999), "999 B"}, {Bytes(12_345_678), "12.3 MB"}, {Bytes(2.5e12), "2.50 TB"}, {Bits(1e7), "10.0 Mbit/s"},
		{Times(1.234), "1.23x"}, {Times(12.34), "12.3x"}, {Times(5455.4), "5455x"}, {Times(math.NaN()), "–"}, {Times(math.Inf(1)), "–"},
		{trimZeros(2.50), "2.5"}, {trimZeros(10), "10"},
	} {
		if c.got != c.want {
			t.Errorf("%q, want %q", c.got, c.want)
		}
	}
}

func TestPercentiles(t *testing.T) {
	var d []time.Duration
	for i := 100; i >= 1; i-- {
		d = append(d, time.Duration(i)*time.Millisecond)
	}
	want := &Latency{Count: 100, P50: 0.050, P90: 0.090, P99: 0.099, Max: 0.1}
	if diff := cmp.Diff(want, Percentiles(d)); diff != "" {
		t.Error(diff)
	}
	if Percentiles(nil) != nil {
		t.Error("percentiles of nothing")
	}
}

func TestNiceStep(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := rapid.Float64Range(1e-6, 1e12).Draw(t, "v")
		if s := niceStep(v); s < v*(1-1e-6) || s > v*2.51 {
			t.Fatalf("niceStep(%g) = %g", v, s)
		}
	})
}

func TestCodecTable(t *testing.T) {
	dir := t.TempDir()
	write := func(text string) string {
		path := filepath.Join(dir, "codec.json")
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	rows, err := ReadCodec(write(`[{"file":"/a/b/source/one.tar","raw_bytes":1000000,"wire_bytes":1000,"ratio":1000,"encode_mb_per_cpu_second":99.6,"decode_mb_per_cpu_second":400,"verified":true}]`))
	if err != nil {
		t.Fatal(err)
	}
	r := Merge(&Report{Codec: [][]CodecRow{rows}})
	if text := r.Markdown(nil, nil); !strings.Contains(text, "| source/one.tar | 1.00 MB | 1.00 kB | 1000x | 100 | 400 |") {
		t.Error(text)
	}
	page, err := r.HTML(nil, nil)
	if err != nil || !strings.Contains(string(page), "<td>source/one.tar</td><td>1.00 MB</td>") {
		t.Errorf("%s: %v", page, err)
	}
	for _, bad := range []string{"", "{}", `[{"file":"a","raw_bytes":1,"wire_bytes":1}]`, `[{"file":"a","verified":true}]`} {
		if _, err := ReadCodec(write(bad)); !errors.Is(err, ErrFormat) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
