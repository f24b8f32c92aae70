// Package manual writes the manual pages and the completions of the shells from the definitions of the command line and of the configuration, so that
// they cannot say anything else than the program does.
package manual

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/alecthomas/kong"

	"wanpair/accel/config"
)

// Man is wanpair(1) as roff, made from the command line's model.
func Man(app *kong.Application) string {
	p := &page{}
	p.f(".\\\" Made from the definitions of the command line by go generate ./cmd/wanpair. Do not edit.")
	p.f(".TH %s 1 \"\" \"%s\" \"User Commands\"", strings.ToUpper(app.Name), app.Name)
	p.f(".SH NAME\n%s \\- WAN accelerator between two sites", app.Name)
	p.f(".SH SYNOPSIS\n.B %s\n.I COMMAND\n[\\fIFLAGS\\fR] [\\fIARGUMENTS\\fR]", app.Name)
	p.f(".SH DESCRIPTION")
	p.text(app.Help)
	p.text("One gateway runs at each site, in the path of the traffic or as a plain port forward; both keep the same history of what crossed the link. The commands below run a gateway, check its configuration and its host, and look at a running one.")
	p.f(".SH COMMANDS")
	for _, n := range leaves(app.Node) {
		p.f(".SS %s", escape(summary(n)))
		p.text(n.Help)
		p.text(n.Detail)
		for _, f := range flags(n) {
			p.f(".TP\n.B %s", escape(flagText(f)))
			p.text(f.Help + environment(f))
		}
	}
	p.f(".SH EXIT STATUS")
	for _, status := range [][2]string{
		{"0", "What was asked was done; for doctor and check: nothing is wrong."},
		{"1", "It could not be done, or something is wrong: a line on standard error says what."},
		{"2", "The command line makes no sense."},
	} {
		p.f(".TP\n.B %s", status[0])
		p.text(status[1])
	}
	p.f(".SH FILES")
	for _, file := range [][2]string{
		{"/etc/wanpair/wanpair.toml", "The configuration, see wanpair.toml(5)."},
		{"/etc/wanpair/private.key", "The site's private key, mode 0600."},
		{"/var/lib/wanpair", "The cache, and control.sock, the socket through which cache warm reaches the gateway."},
		{"/usr/share/doc/wanpair", "The operator's guide, the list of reasons, samples, alert rules and dashboards."},
	} {
		p.f(".TP\n.I %s", file[0])
		p.text(file[1])
	}
	p.f(".SH SEE ALSO\n.BR wanpair.toml (5),\n.BR nft (8),\n.BR ip\\-rule (8)")
	return p.b.String()
}

// ConfigMan is wanpair.toml(5) as roff, made from the reference of the keys.
func ConfigMan() string {
	p := &page{}
	p.f(".\\\" Made from the tables in accel/config by go generate ./cmd/wanpair. Do not edit.")
	p.f(".TH WANPAIR.TOML 5 \"\" \"wanpair\" \"File Formats\"")
	p.f(".SH NAME\nwanpair.toml \\- configuration of one wanpair gateway")
	p.f(".SH DESCRIPTION")
	p.text("A TOML file. Unknown keys are errors: `wanpair check -c FILE` reports every fault with its line and, when there is none, what would be done.")
	p.text("A size is a number and a unit (`64GiB`, `500MB`), a rate is in bits per second (`100mbit`), a duration is written `120s` or `2m`, a prefix is address/bits without bits beyond the length. Keys marked \"reload\" are taken over at SIGHUP, all others at a restart.")
	for _, s := range config.Sections() {
		p.f(".SH \"%s\"", escape(s.Header))
		p.text(s.Text)
		for _, k := range config.Reference() {
			section, key, _ := strings.Cut(k.Name, ".")
			if section != s.Name {
				continue
			}
			p.f(".TP\n.B %s", escape(key))
			fallback := "default `" + k.Default + "`"
			switch k.Default {
			case "":
				fallback = "required"
			case "unset":
				fallback = "default unset"
			}
			if k.Reload() {
				fallback += ", reload"
			}
			p.text(fmt.Sprintf("(%s, %s) %s Example: `%s`", k.Kind, fallback, k.Text, k.Example))
		}
	}
	p.f(".SH SEE ALSO\n.BR wanpair (1)")
	return p.b.String()
}

type page struct{ b strings.Builder }

func (p *page) f(format string, args ...any) { fmt.Fprintf(&p.b, format+"\n", args...) }

var code = regexp.MustCompile("`([^`]*)`")

// text writes running text; what stands between backticks becomes bold. An empty line begins a paragraph.
func (p *page) text(s string) {
	if s = strings.TrimSpace(s); s == "" {
		return
	}
	s = code.ReplaceAllString(escape(s), `\fB$1\fR`)
	for i, paragraph := range strings.Split(s, "\n\n") {
		if i > 0 {
			p.f(".PP")
		}
		for line := range strings.Lines(paragraph) {
			line = strings.TrimSpace(line)
			if strings.HasPrefix(line, ".") || strings.HasPrefix(line, "'") {
				line = `\&` + line
			}
			p.f("%s", line)
		}
	}
}

// escape makes text safe for roff.
func escape(s string) string {
	return strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(s)
}

// leaves are the commands that can be given, hidden ones left out.
func leaves(n *kong.Node) (out []*kong.Node) {
	for _, c := range n.Children {
		switch {
		case c.Hidden:
		case len(c.Children) > 0:
			out = append(out, leaves(c)...)
		default:
			out = append(out, c)
		}
	}
	return out
}

// path is how a command is called, without the program's name.
func path(n *kong.Node) string {
	var words []string
	for ; n != nil && n.Parent != nil; n = n.Parent {
		words = append([]string{n.Name}, words...)
	}
	return strings.Join(words, " ")
}

func summary(n *kong.Node) string {
	words := []string{"wanpair", path(n)}
	for _, f := range flags(n) {
		switch {
		case f.Name == "help":
		case f.Required:
			words = append(words, shortest(f))
		}
	}
	for _, f := range flags(n) {
		if f.Name != "help" && !f.Required {
			words = append(words, "["+shortest(f)+"]")
		}
	}
	for _, a := range n.Positional {
		words = append(words, strings.ToUpper(strings.Trim(a.Summary(), "<>[]. "))+map[bool]string{true: "..."}[a.IsCumulative()])
	}
	return strings.Join(words, " ")
}

func shortest(f *kong.Flag) string {
	name := "--" + f.Name
	if f.Short != 0 {
		name = "-" + string(f.Short)
	}
	return strings.TrimSpace(name + " " + value(f))
}

// flags are a command's own and inherited flags, hidden ones left out.
func flags(n *kong.Node) (out []*kong.Flag) {
	for _, group := range n.AllFlags(true) {
		out = append(out, group...)
	}
	return out
}

func value(f *kong.Flag) string {
	if f.IsBool() || f.IsCounter() {
		return ""
	}
	return strings.Trim(f.FormatPlaceHolder(), `"`)
}

func flagText(f *kong.Flag) string {
	text := "--" + f.Name
	if f.Short != 0 {
		text = "-" + string(f.Short) + ", " + text
	}
	if v := value(f); v != "" {
		text += " " + v
	}
	return text
}

func environment(f *kong.Flag) string {
	if len(f.Envs) == 0 {
		return ""
	}
	return " Taken from the environment variable " + strings.Join(f.Envs, ", ") + " where it is not given."
}
