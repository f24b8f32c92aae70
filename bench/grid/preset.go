package grid

import (
	"fmt"
	"slices"
	"strings"
)

// Presets are the named sets of points.
func Presets() []string { return []string{"quick", "table", "lanes", "latency", "cut", "fairness"} }

// Preset returns the points of a name; seconds is how long bulk flows run, 0 what suits each, columns replace those of the preset unless
// there are none.
func Preset(name string, seconds float64, columns []string) ([]Point, error) {
	var points []Point
	direct := []string{"wanpair", "direct-cubic", "direct-bbr"}
	all := []string{"wanpair", "direct-cubic", "direct-bbr", "direct-cubic-128m", "direct-bbr-128m"}
	add := func(p Point, names ...string) {
		if len(columns) > 0 {
			names = columns
		}
		if seconds > 0 {
			p.Seconds = seconds
		}
		p.Flows, p.QueueBDP = max(1, p.Flows), max(1, p.QueueBDP)
		for _, name := range names {
			p.Column = name
			points = append(points, p)
		}
	}
	const run = 15
	switch name {
	case "quick":
		add(Point{Kind: Bulk, RateMbit: 100, RTTMillis: 100, LossPercent: 1, Seconds: 10}, direct...)
		add(Point{Kind: Bulk, RateMbit: 20, RTTMillis: 300, LossPercent: 0.5, Seconds: 15}, "wanpair", "direct-bbr")
	case "table":
		for _, loss := range []float64{0, 0.1, 1, 3} {
			add(Point{Kind: Bulk, RateMbit: 100, RTTMillis: 100, LossPercent: loss, Seconds: run}, direct...)
		}
		add(Point{Kind: Bulk, RateMbit: 100, RTTMillis: 100, LossPercent: 1, Burst: 4, Seconds: run}, direct...)
		add(Point{Kind: Bulk, RateMbit: 500, RTTMillis: 20, LossPercent: 0.1, Seconds: run}, direct...)
		add(Point{Kind: Bulk, RateMbit: 1000, RTTMillis: 100, Seconds: run}, all...)
		add(Point{Kind: Bulk, RateMbit: 1000, RTTMillis: 100, LossPercent: 0.1, Seconds: run}, all...)
		add(Point{Kind: Bulk, RateMbit: 20, RTTMillis: 300, LossPercent: 0.5, Seconds: 2 * run}, direct...)
		for _, loss := range []float64{0, 0.1, 1, 3} {
			add(Point{Kind: Bulk, RateMbit: 100, RTTMillis: 100, LossPercent: loss, Flows: 10, Seconds: run}, "wanpair")
		}
	case "lanes":
		add(Point{Kind: Bulk, RateMbit: 100, RTTMillis: 100, LossPercent: 1, Seconds: run},
			"wanpair-no-governor-1-lane", "wanpair-no-governor", "wanpair-no-governor-8-lanes", "wanpair-1-lane")
	case "latency":
		add(Point{Kind: Latency, RateMbit: 100, RTTMillis: 100, Seconds: 12}, direct...)
		add(Point{Kind: Latency, RateMbit: 2, RTTMillis: 100, Seconds: 15}, direct...)
	case "cut":
		for _, cut := range []float64{5, 20, 60} {
			add(Point{Kind: Cut, RateMbit: 100, RTTMillis: 100, CutSeconds: cut, Seconds: 5}, "wanpair", "direct-cubic")
		}
	case "fairness":
		for _, beside := range []string{"cubic", "bbr"} {
			for _, queue := range []float64{1, 4} {
				add(Point{Kind: Fairness, RateMbit: 100, RTTMillis: 100, QueueBDP: queue, Beside: beside, Seconds: 60}, "wanpair")
			}
		}
	default:
		return nil, fmt.Errorf("no preset %q: there are %s", name, strings.Join(Presets(), ", "))
	}
	return points, nil
}

// Cross makes the bulk points of every combination: the columns of one link stand together. Losses are per cent with the mean length of
// bursts.
func Cross(rates, rtts []float64, losses [][2]float64, queues []float64, flows []int, columns []string, seconds float64) []Point {
	var points []Point
	for _, rate := range rates {
		for _, rtt := range rtts {
			for _, loss := range losses {
				for _, queue := range queues {
					for _, n := range flows {
						for _, column := range columns {
							p := Point{Kind: Bulk, RateMbit: rate, RTTMillis: rtt, LossPercent: loss[0], QueueBDP: queue, Flows: n, Column: column, Seconds: seconds}
							if loss[1] > 1 {
								p.Burst = loss[1]
							}
							if !slices.Contains(points, p) {
								points = append(points, p)
							}
						}
					}
				}
			}
		}
	}
	return points
}
