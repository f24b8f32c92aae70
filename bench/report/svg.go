package report

import (
	"fmt"
	"html"
	"math"
	"strings"
)

// Sizes of pictures in CSS pixels.
const (
	pictureWidth = 560
	lineHeight   = 220
	marginLeft   = 84
	marginRight  = 12
	marginTop    = 8
	marginBottom = 34
	barThick     = 14
	barPitch     = 20
	barLabel     = 150 // room for names at the left of bars
	barValue     = 110 // room for values at their right
)

// bar is one bar of a picture, with its value in words.
type barMark struct {
	name, value string
	length      float64
	spread      [2]float64 // from, to; equal where there is one run
	colour      int
}

type barGroup struct {
	name string
	bars []barMark
}

// bars draws groups of horizontal bars on one linear scale from zero; what is 50 times smaller looks 50 times smaller.
func bars(title string, groups []barGroup) string {
	longest, n := 0.0, 0
	for _, g := range groups {
		for _, b := range g.bars {
			longest = max(longest, b.length, b.spread[1])
		}
		n += len(g.bars)
	}
	if longest == 0 {
		return ""
	}
	const heading = 20
	height := n*barPitch + len(groups)*heading + marginTop
	room := float64(pictureWidth - barLabel - barValue)
	var b strings.Builder
	open(&b, title, height)
	y := marginTop
	for _, g := range groups {
		fmt.Fprintf(&b, `<text class="group" x="0" y="%d">%s</text>`, y+13, html.EscapeString(g.name))
		y += heading
		for _, mark := range g.bars {
			w := mark.length / longest * room
			fmt.Fprintf(&b, `<g><title>%s</title>`, html.EscapeString(g.name+", "+mark.name+": "+mark.value))
			fmt.Fprintf(&b, `<text class="name" x="%d" y="%d">%s</text>`, barLabel-8, y+11, html.EscapeString(mark.name))
			fmt.Fprintf(&b, `<path class="f%d" d="%s"/>`, mark.colour, barPath(barLabel, float64(y), w))
			end := w
			if mark.spread[1] > mark.spread[0] {
				from, to := barLabel+mark.spread[0]/longest*room, barLabel+mark.spread[1]/longest*room
				fmt.Fprintf(&b, `<path class="spread" d="M%.1f %dH%.1f"/>`, from, y+barThick/2, to)
				end = max(end, to-barLabel)
			}
			fmt.Fprintf(&b, `<text class="value" x="%.1f" y="%d">%s</text></g>`, barLabel+end+6, y+11, html.EscapeString(mark.value))
			y += barPitch
		}
	}
	b.WriteString("</svg>")
	return b.String()
}

// barPath is a bar from the baseline, its far end rounded, never thinner than a hair.
func barPath(x, y, w float64) string {
	w = max(w, 1)
	r := min(4, w)
	return fmt.Sprintf("M%.1f %.1fh%.1fa%.1f %.1f 0 0 1 %.1f %.1fv%.1fa%.1f %.1f 0 0 1 %.1f %.1fh%.1fz",
		x, y, w-r, r, r, r, r, barThick-2*r, r, r, -r, r, -(w - r))
}

// lineMark is one line of a picture.
type lineMark struct {
	name   string
	colour int
	points [][2]float64
}

// lines draws lines over time with a y axis from zero.
func lines(title, unit string, marks []lineMark, text func(float64) string) string {
	var right, top float64
	for _, l := range marks {
		for _, p := range l.points {
			right, top = max(right, p[0]), max(top, p[1])
		}
	}
	if right == 0 || top == 0 {
		return ""
	}
	yStep, xStep := niceStep(top/4), niceStep(right/5)
	top = math.Ceil(top/yStep) * yStep
	x := func(v float64) float64 { return marginLeft + v/right*(pictureWidth-marginLeft-marginRight) }
	y := func(v float64) float64 { return lineHeight - marginBottom - v/top*(lineHeight-marginBottom-marginTop) }
	var b strings.Builder
	open(&b, title, lineHeight)
	for v := 0.0; v <= top+yStep/2; v += yStep {
		fmt.Fprintf(&b, `<path class="grid" d="M%d %.1fH%d"/><text class="axis end" x="%d" y="%.1f">%s</text>`,
			marginLeft, y(v), pictureWidth-marginRight, marginLeft-6, y(v)+4, html.EscapeString(round(text(v))))
	}
	for v := 0.0; v <= right; v += xStep {
		fmt.Fprintf(&b, `<text class="axis mid" x="%.1f" y="%d">%s</text>`, x(v), lineHeight-marginBottom+16, html.EscapeString(trimZeros(v)))
	}
	fmt.Fprintf(&b, `<text class="axis end" x="%d" y="%d">seconds</text>`, pictureWidth-marginRight, lineHeight-2)
	for _, l := range marks {
		var path strings.Builder
		for i, p := range l.points {
			command := "L"
			if i == 0 {
				command = "M"
			}
			fmt.Fprintf(&path, "%s%.1f %.1f", command, x(p[0]), y(p[1]))
		}
		fmt.Fprintf(&b, `<path class="l%d" d="%s"><title>%s, %s</title></path>`, l.colour, path.String(), html.EscapeString(l.name), html.EscapeString(unit))
	}
	b.WriteString("</svg>")
	return b.String()
}

func open(b *strings.Builder, title string, height int) {
	fmt.Fprintf(b, `<svg viewBox="0 0 %d %d" role="img" aria-label="%s">`, pictureWidth, height, html.EscapeString(title))
}

// niceStep rounds up to 1, 2 or 5 times a power of ten.
func niceStep(v float64) float64 {
	power := math.Pow(10, math.Floor(math.Log10(v)))
	for _, m := range []float64{1, 2, 5} {
		if v <= m*power*(1+1e-9) {
			return m * power
		}
	}
	return 10 * power
}

// round shortens a round figure with its unit: 30.0 Mbit/s is 30 Mbit/s on an axis.
func round(text string) string {
	figure, unit, _ := strings.Cut(text, " ")
	if strings.Contains(figure, ".") {
		figure = strings.TrimSuffix(strings.TrimRight(figure, "0"), ".")
	}
	return figure + " " + unit
}

func trimZeros(v float64) string {
	s := fmt.Sprintf("%.2f", v)
	return strings.TrimSuffix(strings.TrimRight(s, "0"), ".")
}
