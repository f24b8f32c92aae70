package config

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var update = flag.Bool("update", false, "rewrite generated documents")

// schemaKeys lists the keys the decoder knows, in the order of the struct.
func schemaKeys() []string {
	var keys []string
	t := reflect.TypeFor[document]()
	for f := range t.Fields() {
		section := f.Type
		for section.Kind() == reflect.Pointer || section.Kind() == reflect.Slice {
			section = section.Elem()
		}
		for key := range section.Fields() {
			keys = append(keys, f.Tag.Get("toml")+"."+key.Tag.Get("toml"))
		}
	}
	return keys
}

func TestReferenceListsTheSchema(t *testing.T) {
	var got []string
	for _, k := range Reference() {
		got = append(got, k.Name)
		if k.Kind == "" || k.Example == "" || k.Text == "" {
			t.Errorf("%s is not described", k.Name)
		}
	}
	if diff := cmp.Diff(schemaKeys(), got); diff != "" {
		t.Errorf("Reference does not list the decoder's keys (-schema +reference):\n%s", diff)
	}
}

// TestReferenceDefaults: writing every default into a file changes nothing.
func TestReferenceDefaults(t *testing.T) {
	sections := map[string][]string{}
	for _, k := range Reference() {
		section, key, _ := strings.Cut(k.Name, ".")
		if k.Default != "" && k.Default != "unset" {
			sections[section] = append(sections[section], key+" = "+k.Default)
		}
	}
	src := minimal()
	for _, name := range []string{"cache", "tunnel", "egress", "limits", "stats", "log"} {
		src += "[" + name + "]\n" + strings.Join(sections[name], "\n") + "\n"
	}
	got, err := Parse("d.toml", []byte(src))
	if err != nil {
		t.Fatalf("%v\n%s", err, src)
	}
	want, err := Parse("d.toml", []byte(minimal()))
	if err != nil {
		t.Fatal(err)
	}
	got.Warnings, want.Warnings = nil, nil
	if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(Config{}), cmpopts.EquateComparable(netip.Prefix{}, netip.AddrPort{}), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("the defaults in Reference are not those of Default (-default +reference):\n%s", diff)
	}
}

// TestReferenceExamples: all examples together make a valid file.
func TestReferenceExamples(t *testing.T) {
	var src strings.Builder
	for _, s := range Sections() {
		src.WriteString(s.Header + "\n")
		for _, k := range Reference() {
			if section, key, _ := strings.Cut(k.Name, "."); section == s.Name {
				fmt.Fprintf(&src, "%s = %s\n", key, k.Example)
			}
		}
	}
	if _, err := Parse("examples.toml", []byte(src.String())); err != nil {
		t.Errorf("%v\n%s", err, src.String())
	}
}

// TestReferenceReload changes one key after the other: Config.Reload must take over those the reference says it does, and name the others.
func TestReferenceReload(t *testing.T) {
	file := func(without string) *Config {
		var src strings.Builder
		for _, s := range Sections() {
			src.WriteString(s.Header + "\n")
			for _, k := range Reference() {
				if section, key, _ := strings.Cut(k.Name, "."); section == s.Name && k.Name != without {
					fmt.Fprintf(&src, "%s = %s\n", key, k.Example)
				}
			}
		}
		c, err := Parse("r.toml", []byte(src.String()))
		if err != nil {
			return nil // the key cannot be left out
		}
		return c
	}
	all := file("")
	tried := 0
	for _, k := range Reference() {
		changed := file(k.Name)
		if changed == nil || k.Default == k.Example {
			continue
		}
		tried++
		_, applied, restart := all.Reload(changed)
		if k.Reload() != (len(applied) > 0) || k.Reload() == (len(restart) > 0) {
			t.Errorf("%s: applied %v, restart %v, but the reference says reload %v", k.Name, applied, restart, k.Reload())
		}
	}
	if tried < 15 {
		t.Errorf("only %d keys could be tried", tried)
	}
}

func TestReferenceDocument(t *testing.T) {
	file := filepath.Join("..", "..", "docs", "configuration.md")
	if *update {
		if err := os.WriteFile(file, []byte(Markdown()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Markdown(), string(got)); diff != "" {
		t.Errorf("docs/configuration.md is out of date, run go generate ./accel/config (-want +got):\n%s", diff)
	}
}

func TestSamples(t *testing.T) {
	files, err := filepath.Glob(filepath.Join("..", "..", "deploy", "samples", "*.toml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no samples: %v", err)
	}
	for _, file := range files {
		src, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		c, err := Parse(file, src)
		if err != nil {
			t.Errorf("%v", err)
			continue
		}
		for _, w := range c.Warnings {
			t.Errorf("%v", w)
		}
	}
}
