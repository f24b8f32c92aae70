package report

import (
	"bytes"
	"errors"
	"html/template"
	"strings"
)

// Page is a page of tables and pictures for results that are not rows of a Report. It looks like one of those and needs nothing else either.
type Page struct {
	Title    string
	Facts    []string // what readers must know of the measurement
	Legend   []Mark
	Sections []Section
}

// Section is one box of a page: pictures, then a table.
type Section struct {
	Title    string
	Text     string
	Pictures []Picture
	Head     []string
	Rows     [][]string
}

// Picture is an SVG made by this package; its zero value is left out.
type Picture struct {
	title string
	svg   string
}

// Mark is one bar or one line.
type Mark struct {
	Name   string
	Colour int // from 1 on; all beyond the last one are grey
	// Value is the length of a bar, Text what stands beside it.
	Value float64
	Text  string
	// Points are those of a line: seconds and value.
	Points [][2]float64
}

// Group is bars under one heading.
type Group struct {
	Name  string
	Marks []Mark
}

// BarPicture draws groups of bars on one scale from zero.
func BarPicture(title string, groups []Group) Picture {
	var drawn []barGroup
	for _, g := range groups {
		one := barGroup{name: g.Name}
		for _, m := range g.Marks {
			one.bars = append(one.bars, barMark{name: m.Name, value: m.Text, length: m.Value, colour: colourOf(m)})
		}
		drawn = append(drawn, one)
	}
	return Picture{title: title, svg: bars(title, drawn)}
}

// LinePicture draws lines over time; text writes the values of the axis.
func LinePicture(title, unit string, marks []Mark, text func(float64) string) Picture {
	var drawn []lineMark
	for i := range marks { // the first one is drawn last, so on top
		m := marks[len(marks)-1-i]
		if len(m.Points) > 1 {
			drawn = append(drawn, lineMark{name: m.Name, colour: colourOf(m), points: m.Points})
		}
	}
	return Picture{title: title, svg: lines(title, unit, drawn, text)}
}

func colourOf(m Mark) int { return min(max(m.Colour, 1), colours) }

// plainBody is what follows the style of the page of a Report.
const plainBody = `</style>
</head>
<body>
<main>
<h1>{{.Title}}</h1>
<ul>{{range .Facts}}<li>{{.}}</li>{{end}}</ul>
<ul class="legend">{{range .Legend}}<li><i class="f{{colour .}}"></i>{{.Name}}</li>{{end}}</ul>
{{range .Sections}}<section>
<h3>{{.Title}}</h3>
{{if .Text}}<p>{{.Text}}</p>{{end}}
<div class="pictures">{{range .Pictures}}{{with svg .}}
<figure><figcaption>{{.Title}}</figcaption>{{.SVG}}</figure>{{end}}{{end}}
</div>
{{if .Rows}}<div class="scroll"><table>
<tr>{{range .Head}}<th>{{.}}</th>{{end}}</tr>
{{range .Rows}}<tr>{{range .}}<td>{{.}}</td>{{end}}</tr>
{{end}}</table></div>{{end}}
</section>{{end}}
</main>
</body>
</html>
`

// HTML writes the page.
func (p Page) HTML() ([]byte, error) {
	head, _, ok := strings.Cut(page, "</style>")
	if !ok {
		return nil, errors.New("report: the page has no style")
	}
	functions := template.FuncMap{
		"colour": colourOf,
		"svg": func(picture Picture) *pictureView {
			if picture.svg == "" {
				return nil
			}
			return &pictureView{Title: picture.title, SVG: template.HTML(picture.svg)} // our own SVG, every text in it escaped
		},
	}
	t, err := template.New("page").Funcs(functions).Parse(head + plainBody)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if err := t.Execute(&out, p); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}
