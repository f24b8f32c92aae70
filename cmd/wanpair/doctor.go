package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"

	"wanpair/accel/config"
	"wanpair/accel/doctor"
	"wanpair/accel/stats"
)

type doctorCmd struct {
	Config  string `short:"c" required:"" type:"path" placeholder:"FILE" help:"Configuration file."`
	Verbose bool   `short:"v" help:"Also print what was looked at and right."`
	JSON    bool   `name:"json" help:"Print the findings as JSON."`
}

// errFindings is what doctor ends with when something is wrong.
var errFindings = errors.New("something is wrong, see above")

// Run examines this host, the way to the peers and the running gateway. It ends with a status that is not 0 when there is a warning or worse.
func (c doctorCmd) Run(out output) error {
	cfg, err := config.Load(c.Config)
	if err != nil {
		return err
	}
	ctx := context.Background()
	subject := doctor.Subject{Config: cfg, Version: versionString()}
	if cfg.Intercept != nil {
		rules := interceptConfig(cfg)
		subject.Rules = &rules
	}
	client := &statsClient{address: reachable(cfg.Stats.Listen).String(), token: cfg.Stats.Token}
	var report stats.Report
	if err := client.read(ctx, "/api/v1/stats", &report); err != nil {
		subject.Silence = err.Error()
	} else {
		subject.Gateway = &report
	}
	findings := doctor.Examine(ctx, subject)
	if err := c.print(out.stdout, findings); err != nil {
		return err
	}
	if doctor.Worst(findings) >= doctor.Warning {
		return errFindings
	}
	return nil
}

// findingDocument is one finding as JSON has it.
type findingDocument struct {
	Severity string `json:"severity"`
	Area     string `json:"area"`
	Text     string `json:"text"`
	Remedy   string `json:"remedy,omitempty"`
}

func (c doctorCmd) print(w io.Writer, findings []doctor.Finding) error {
	if c.JSON {
		docs := make([]findingDocument, 0, len(findings))
		for _, f := range findings {
			docs = append(docs, findingDocument{f.Severity.String(), string(f.Area), f.Text, f.Remedy})
		}
		encoder := json.NewEncoder(w)
		encoder.SetIndent("", "  ")
		return encoder.Encode(docs)
	}
	p := &printer{w: w}
	shown := 0
	for _, f := range findings {
		if f.Severity == doctor.OK && !c.Verbose {
			continue
		}
		shown++
		p.line("%-8s %-8s %s.", f.Severity, f.Area, f.Text)
		if f.Remedy != "" {
			p.line("%17s %s", "", f.Remedy)
		}
	}
	if shown == 0 {
		p.line("nothing found: %d things were looked at and are right", len(findings))
	}
	return p.err
}
