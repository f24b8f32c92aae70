package chaos

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"
	"strings"
)

//go:embed page.html
var pageText string

// bar is one column of the timeline.
type bar struct {
	X, Width, Whole, Broken float64
	Title                   string
}

// stripe is one fault under the timeline.
type stripe struct {
	X, Width float64
	Class    string
	Title    string
}

// timeline is the picture: transfers per second above, faults below.
type timeline struct {
	Bars    []bar
	Stripes []stripe
	Most    int
	Minutes []string
}

const (
	pictureWidth  = 960.0
	pictureHeight = 160.0
)

func (r *Result) timeline() timeline {
	var t timeline
	if len(r.Timeline) == 0 {
		return t
	}
	group := (len(r.Timeline) + 479) / 480 // seconds per column
	var columns []Second
	for i, s := range r.Timeline {
		if i%group == 0 {
			columns = append(columns, Second{})
		}
		c := &columns[len(columns)-1]
		c.Whole, c.Broken = c.Whole+s.Whole, c.Broken+s.Broken
		t.Most = max(t.Most, c.Whole+c.Broken)
	}
	width := pictureWidth / float64(len(columns))
	for i, c := range columns {
		scale := pictureHeight / float64(max(t.Most, 1))
		t.Bars = append(t.Bars, bar{float64(i) * width, width, float64(c.Whole) * scale, float64(c.Broken) * scale,
			fmt.Sprintf("second %d: %d whole, %d broken", i*group, c.Whole, c.Broken)})
	}
	total := float64(len(columns) * group)
	for _, f := range r.Records {
		s := stripe{f.At.Seconds() / total * pictureWidth, max((f.Took+f.Hold+f.AcceleratedAfter).Seconds()/total*pictureWidth, 1.5), "well", f.line()}
		if !f.Accelerated || f.Deaths > 0 {
			s.Class = "ill"
		}
		t.Stripes = append(t.Stripes, s)
	}
	return t
}

// HTML writes the report as one page that needs nothing else.
func (r *Result) HTML() ([]byte, error) {
	page, err := template.New("chaos").Funcs(template.FuncMap{
		"sub": func(a, b float64) float64 { return a - b },
	}).Parse(pageText)
	if err != nil {
		return nil, err
	}
	verdict := "No wrong byte, and no clean end of a truncated flow."
	if len(r.Violations) > 0 {
		verdict = fmt.Sprintf("%d violations: the campaign stopped.", len(r.Violations))
	}
	records := make([]string, 0, len(r.Records))
	for _, f := range r.Records {
		records = append(records, fmt.Sprintf("%7.1f s  %s", f.At.Seconds(), f.line()))
	}
	var b bytes.Buffer
	err = page.Execute(&b, struct {
		Result        *Result
		Verdict       string
		Good          bool
		Transfers     int
		Broken        int
		Picture       timeline
		Width, Height float64
		Text, Records string
	}{r, verdict, len(r.Violations) == 0, r.count(), r.Total()[Broken], r.timeline(), pictureWidth, pictureHeight, r.Text(), strings.Join(records, "\n")})
	return b.Bytes(), err
}

// count is the number of transfers.
func (r *Result) count() int {
	n := 0
	for _, k := range r.Total() {
		n += k
	}
	return n
}
