package grid

import (
	"fmt"
	"slices"
	"strings"
)

// Column is one way to carry the bytes.
type Column struct {
	Name string
	// Congestion control of the server's sockets; where it cannot be set reno takes its place, which the result says.
	Congestion string
	// BufferBytes is the largest TCP buffer of client and server; 0 is the machine's default.
	BufferBytes int
	// Gateway puts a pair of wanpair between them, Tunnel adds lines to the [tunnel] sections of both.
	Gateway bool
	Tunnel  string
}

// bigBuffer is 128 MB: more than any link of the grid can have under way.
const bigBuffer = 128 << 20

// Columns are all of them, in the order in which they are shown.
func Columns() []Column {
	return []Column{
		{Name: "wanpair", Congestion: "cubic", Gateway: true},
		{Name: "wanpair-1-lane", Congestion: "cubic", Gateway: true, Tunnel: "lanes = 1"},
		{Name: "wanpair-no-governor", Congestion: "cubic", Gateway: true, Tunnel: "governor = false"},
		{Name: "wanpair-no-governor-1-lane", Congestion: "cubic", Gateway: true, Tunnel: "governor = false\nlanes = 1"},
		{Name: "wanpair-no-governor-8-lanes", Congestion: "cubic", Gateway: true, Tunnel: "governor = false\nlanes = 8"},
		{Name: "direct-cubic", Congestion: "cubic"},
		{Name: "direct-reno", Congestion: "reno"},
		{Name: "direct-bbr", Congestion: "bbr"},
		{Name: "direct-cubic-128m", Congestion: "cubic", BufferBytes: bigBuffer},
		{Name: "direct-bbr-128m", Congestion: "bbr", BufferBytes: bigBuffer},
	}
}

// FindColumn looks a column up by name.
func FindColumn(name string) (Column, error) {
	all := Columns()
	if i := slices.IndexFunc(all, func(c Column) bool { return c.Name == name }); i >= 0 {
		return all[i], nil
	}
	names := make([]string, len(all))
	for i, c := range all {
		names[i] = c.Name
	}
	return Column{}, fmt.Errorf("no column %q: there are %s", name, strings.Join(names, ", "))
}
