package stats

import (
	"net/http"
	"strconv"
)

// HistoryReport is the document of /api/v1/history: the last hour in columns of equal length, oldest first, one point per interval.
type HistoryReport struct {
	IntervalSeconds float64                `json:"interval_seconds"`
	Time            []int64                `json:"time"` // end of the interval, seconds since 1970
	Peers           map[string]PeerHistory `json:"peers"`
}

// PeerHistory is one peer's columns. Rates are means over the interval in bits per second; null where the peer was not there.
type PeerHistory struct {
	LANSent     []*float64 `json:"lan_sent"`
	LANReceived []*float64 `json:"lan_received"`
	WANSent     []*float64 `json:"wan_sent"`
	WANReceived []*float64 `json:"wan_received"`
	Matched     []*float64 `json:"matched"` // both directions together, as the next two
	Literal     []*float64 `json:"literal"` // without the opaque part
	Opaque      []*float64 `json:"opaque"`
	Resent      []*float64 `json:"resent"`
	RTT         []*float64 `json:"rtt_seconds"`
	Loss        []*float64 `json:"loss_ratio"`
}

func (s *Server) history(w http.ResponseWriter, r *http.Request) {
	q, ok := query(w, r, "since")
	if !ok {
		return
	}
	since := int64(0)
	if text := q.Get("since"); text != "" {
		var err error
		if since, err = strconv.ParseInt(text, 10, 64); err != nil {
			http.Error(w, "since must be a time in seconds since 1970", http.StatusBadRequest)
			return
		}
	}
	answer(w, s.rates.report(since))
}

// report writes the history after a time, in seconds since 1970, in columns.
func (r *rates) report(since int64) HistoryReport {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := HistoryReport{IntervalSeconds: historyInterval * sampleInterval.Seconds(), Time: make([]int64, 0, r.history.len()), Peers: map[string]PeerHistory{}}
	first := 0
	for first < r.history.len() && r.history.at(first).at.Unix() <= since {
		first++
	}
	for i := first; i < r.history.len(); i++ {
		p := r.history.at(i)
		out.Time = append(out.Time, p.at.Unix())
		for name := range p.peers {
			out.Peers[name] = PeerHistory{}
		}
	}
	for name := range out.Peers {
		out.Peers[name] = r.columns(name, first)
	}
	return out
}

// columns writes one peer's history from the given point on. Called with mu held.
func (r *rates) columns(peer string, first int) PeerHistory {
	n := r.history.len() - first
	var h PeerHistory
	columns := []struct {
		to    *[]*float64
		value func(c counters) float64
		rate  bool // the value is a count of bytes and becomes bits per second
	}{
		{&h.LANSent, func(c counters) float64 { return float64(c.lan.Sent) }, true},
		{&h.LANReceived, func(c counters) float64 { return float64(c.lan.Received) }, true},
		{&h.WANSent, func(c counters) float64 { return float64(c.wan.Sent) }, true},
		{&h.WANReceived, func(c counters) float64 { return float64(c.wan.Received) }, true},
		{&h.Matched, func(c counters) float64 { return float64(c.sent.MatchedBytes + c.received.MatchedBytes) }, true},
		{&h.Literal, func(c counters) float64 { return literal(c.sent) + literal(c.received) }, true},
		{&h.Opaque, func(c counters) float64 { return float64(c.sent.OpaqueBytes + c.received.OpaqueBytes) }, true},
		{&h.Resent, func(c counters) float64 { return float64(c.resent) }, true},
		{&h.RTT, func(c counters) float64 { return c.rtt.Seconds() }, false},
		{&h.Loss, func(c counters) float64 { return c.loss }, false},
	}
	for _, column := range columns {
		*column.to = make([]*float64, n)
		for i := range n {
			p := r.history.at(first + i)
			c, there := p.peers[peer]
			if !there || p.seconds <= 0 {
				continue
			}
			v := column.value(c)
			if column.to == &h.RTT && v == 0 {
				continue // there is no link to measure
			}
			if column.rate {
				v = v * 8 / p.seconds
			}
			(*column.to)[i] = &v
		}
	}
	return h
}

func literal(g Gain) float64 { return float64(g.LiteralBytes - min(g.OpaqueBytes, g.LiteralBytes)) }
