package grid

import (
	"fmt"
	"strings"

	"wanpair/bench/report"
)

// HTML writes all results as one page that needs nothing else.
func (r *Report) HTML() ([]byte, error) {
	page := report.Page{Title: "wanpair over a grid of links", Facts: r.facts()}
	colour := r.colours()
	for _, column := range distinct(r.Results, func(one *Result) string { return one.Column }) {
		page.Legend = append(page.Legend, report.Mark{Name: column, Colour: colour[column]})
	}
	page.Sections = append(page.Sections, r.overview(colour))
	if figures := r.figures(); len(figures.Rows) > 0 {
		page.Sections = append(page.Sections, figures)
	}
	for _, link := range distinct(r.Results, (*Result).Link) {
		page.Sections = append(page.Sections, r.link(link, colour))
	}
	return page.HTML()
}

// colours gives each column a colour for the whole page; our own is always the first.
func (r *Report) colours() map[string]int {
	colour := map[string]int{judgedColumn: 1}
	for _, column := range distinct(r.Results, func(one *Result) string { return one.Column }) {
		if _, ok := colour[column]; !ok {
			colour[column] = len(colour) + 1
		}
	}
	return colour
}

// overview shows the goodput of all bulk points as a share of their link's rate.
func (r *Report) overview(colour map[string]int) report.Section {
	section := report.Section{Title: "Goodput, second half, as a share of the link's rate"}
	var groups []report.Group
	for _, name := range distinct(r.Results, func(one *Result) string { return one.Link() + ", " + one.Task() }) {
		group := report.Group{Name: name}
		for i := range r.Results {
			one := &r.Results[i]
			if one.Kind == Bulk && one.Link()+", "+one.Task() == name {
				share := one.HalfBits / (one.RateMbit * 1e6)
				group.Marks = append(group.Marks, report.Mark{Name: one.Column, Colour: colour[one.Column], Value: share,
					Text: fmt.Sprintf("%.0f %%, %.1f Mbit/s", share*100, one.HalfBits/1e6)})
			}
		}
		if len(group.Marks) > 0 {
			groups = append(groups, group)
		}
	}
	section.Pictures = append(section.Pictures, report.BarPicture("Goodput as a share of the rate", groups))
	return section
}

func (r *Report) figures() report.Section {
	section := report.Section{Title: "Figures to reach", Head: []string{"point", "figure", "asked for", "measured", ""}}
	for i := range r.Results {
		one := &r.Results[i]
		for _, f := range one.Figures(r.Results) {
			section.Rows = append(section.Rows, []string{one.String(), f.Name, f.Asked, f.Measured, verdict(f.Met)})
		}
	}
	return section
}

// link shows the results of one link: goodput over time for every task, and the figures.
func (r *Report) link(name string, colour map[string]int) report.Section {
	section := report.Section{Title: name, Head: head()[1:]}
	var results []*Result
	for i := range r.Results {
		if one := &r.Results[i]; one.Link() == name {
			results = append(results, one)
			section.Rows = append(section.Rows, one.cells()[1:])
		}
	}
	var tasks []string
	marks := map[string][]report.Mark{}
	for _, one := range results {
		task := one.Task()
		if _, ok := marks[task]; !ok {
			tasks = append(tasks, task)
		}
		marks[task] = append(marks[task], report.Mark{Name: one.Column, Colour: colour[one.Column], Points: points(one.Series)})
		if len(one.BesideSeries) > 0 {
			marks[task] = append(marks[task], report.Mark{Name: "the kernel's " + one.Beside, Colour: len(colour) + 1, Points: points(one.BesideSeries)})
		}
	}
	for _, task := range tasks {
		section.Pictures = append(section.Pictures, report.LinePicture(strings.ToUpper(task[:1])+task[1:]+", goodput", "bit/s", marks[task], report.Bits))
	}
	return section
}

func points(rates []Rate) [][2]float64 {
	p := make([][2]float64, len(rates))
	for i, r := range rates {
		p[i] = [2]float64{r.Seconds, r.Bits}
	}
	return p
}

// distinct are the values that results have, in the order of the first.
func distinct(results []Result, of func(*Result) string) []string {
	var seen []string
	known := map[string]bool{}
	for i := range results {
		if v := of(&results[i]); !known[v] {
			known[v] = true
			seen = append(seen, v)
		}
	}
	return seen
}
