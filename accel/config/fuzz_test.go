package config

import (
	"errors"
	"strings"
	"testing"
)

// FuzzParse: whatever the file holds, Parse returns faults that each fit one line and point into the file, or a Config that stands its own validation.
func FuzzParse(f *testing.F) {
	f.Add(minimal())
	f.Add(minimal() + "[intercept]\ninterfaces = [\"lan0\"]\nsubnets = [\"10.1.0.0/16\"]\n")
	f.Add(minimal() + "[[class]]\nname = \"x\"\nports = [1, \"2-3\"]\nshare = 4\n")
	f.Add("peer = [{name = \"a\", subnets = [\"10.0.0.0/8\"]}, {name = 3}]")
	f.Add("site.name = \"a\"\nsite.name = 3\n[peer]\n[[peer]]\n")
	f.Add("[cache]\nsize = [[[1], {a = 2}], 'x']\nsize = \"\"\"\n\"\"\"\n")
	f.Add("\"a\\nb\" = 1\n[\"\\u001b\"]\n")
	f.Add("[[class]]\nports = [1979-05-27, 1.5, inf, true, \"1-99999\"]")
	f.Fuzz(func(t *testing.T, src string) {
		c, err := Parse("f", []byte(src))
		if err == nil {
			if err := c.Validate(); err != nil {
				t.Fatalf("Parse accepts what Validate refuses: %v", err)
			}
			return
		}
		faults, ok := errors.AsType[Faults](err)
		if !ok || len(faults) == 0 {
			t.Fatalf("error is %T with %d faults", err, len(faults))
		}
		lines := strings.Count(src, "\n") + 1
		for _, fault := range faults {
			if fault.Problem == "" || fault.Line < 0 || fault.Line > lines {
				t.Fatalf("%+v is no fault of a file with %d lines", fault, lines)
			}
			if strings.ContainsAny(fault.Error(), "\n\x00") {
				t.Fatalf("%q does not fit one line", fault.Error())
			}
		}
	})
}
