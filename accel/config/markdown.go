package config

import (
	"fmt"
	"strings"
)

//go:generate go test -run TestReferenceDocument -update

// Markdown writes the reference of all keys for the documentation.
func Markdown() string {
	var b strings.Builder
	b.WriteString(`# Configuration

One TOML file, given with ` + "`-c FILE`" + `. Unknown keys are errors: ` + "`wanpair check -c FILE`" + ` reports every fault with its line and, when there is none, what would be
done. Complete examples are in [deploy/samples](../deploy/samples).

- A *size* is a number and a unit: ` + "`64GiB`, `500MB`" + `. A *rate* is in bits per second: ` + "`100mbit`, `2.5gbit`" + `. A *duration* is written ` + "`120s`, `2m`" + `.
- A *prefix* is address/bits without bits beyond the length: ` + "`10.1.0.0/16`" + `. A single host is ` + "`10.1.0.7/32`" + `.
- *Reload*: the key is taken over when the gateway gets SIGHUP (` + "`systemctl reload wanpair`" + `). All others need a restart; the log says which have changed. A file with faults
  changes nothing.
- A default of "required" means that the key must be given when its section is there.

This page is made from the tables in ` + "`accel/config`" + ` by ` + "`go generate ./accel/config`" + `.
`)
	for _, s := range Sections() {
		fmt.Fprintf(&b, "\n## `%s`\n\n%s\n\n| key | kind | default | reload | meaning | example |\n|---|---|---|---|---|---|\n", s.Header, s.Text)
		for _, k := range Reference() {
			section, key, _ := strings.Cut(k.Name, ".")
			if section != s.Name {
				continue
			}
			fallback := "`" + k.Default + "`"
			switch k.Default {
			case "":
				fallback = "required"
			case "unset":
				fallback = "unset"
			}
			fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s | `%s` |\n", key, k.Kind, fallback, map[bool]string{true: "yes", false: "no"}[k.Reload()], k.Text, k.Example)
		}
	}
	return b.String()
}
