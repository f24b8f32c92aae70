package main

import (
	"wanpair/bench/report"
)

// reportCmd shows results that were measured before.
type reportCmd struct {
	Files    []string `arg:"" type:"existingfile" name:"file" help:"JSON of earlier runs; rows of later files take the place of the same rows of earlier ones."`
	JSON     string   `name:"json" placeholder:"FILE" help:"Write the rows of all files as one."`
	HTML     string   `name:"html" placeholder:"FILE" help:"Write one page with pictures."`
	Markdown string   `placeholder:"FILE" help:"Write the tables as a document."`
	Codec    []string `type:"existingfile" placeholder:"FILE" help:"Output of codec --json: a group of files for the codec's table; may be given more than once."`
	Note     []string `sep:"none" placeholder:"TEXT" help:"What readers should know of the measurement; may be given more than once."`
}

// Run reads, joins and writes.
func (c reportCmd) Run() error {
	var all []*report.Report
	for _, name := range c.Files {
		r, err := report.Read(name)
		if err != nil {
			return err
		}
		all = append(all, r)
	}
	joined := report.Merge(all...)
	for _, name := range c.Codec {
		rows, err := report.ReadCodec(name)
		if err != nil {
			return err
		}
		joined.Codec = append(joined.Codec, rows)
	}
	joined.Notes = append(joined.Notes, c.Note...)
	return runCmd{JSON: c.JSON, HTML: c.HTML, Markdown: c.Markdown}.write(joined)
}
