package stats

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	defaultFlows  = 10_000 // flows shown when no limit is asked for
	maxFlows      = 100_000
	defaultEvents = 200
	defaultTop    = 10
	maxQueryBytes = 1024
)

// probe answers a liveness or readiness probe in one line.
func probe(w http.ResponseWriter, fault string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	if fault != "" {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_, _ = fmt.Fprintln(w, okOr(fault)) // a client that went away needs no answer
}

// answer writes a document.
func answer(w http.ResponseWriter, doc any) {
	text, err := json.Marshal(doc)
	if err != nil {
		http.Error(w, "the document cannot be written: "+err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write(append(text, '\n')) // a client that went away needs no answer
}

func (s *Server) stats(w http.ResponseWriter, _ *http.Request) {
	answer(w, newReport(time.Now(), s.src.Snapshot(), s.rates))
}

func (s *Server) latest(w http.ResponseWriter, r *http.Request) {
	q, ok := query(w, r, "limit")
	if !ok {
		return
	}
	n, err := limit(q, defaultEvents, maxFlows)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	answer(w, EventsReport{Events: s.events.Latest(n)})
}

func (s *Server) top(w http.ResponseWriter, r *http.Request) {
	q, ok := query(w, r, "limit")
	if !ok {
		return
	}
	n, err := limit(q, defaultTop, topKeys)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	answer(w, s.src.Top.report(s.src.Flows(), n))
}

// flows answers with the connections a filter leaves, in the order asked for.
func (s *Server) flows(w http.ResponseWriter, r *http.Request) {
	q, ok := query(w, r, "limit", "peer", "state", "reason", "q", "sort")
	if !ok {
		return
	}
	filter, err := newFlowFilter(q)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	answer(w, filter.apply(time.Now(), s.src.Flows()))
}

// query returns the parameters of a request, or answers that there is one it does not know.
func query(w http.ResponseWriter, r *http.Request, known ...string) (url.Values, bool) {
	if len(r.URL.RawQuery) > maxQueryBytes {
		http.Error(w, "the query is too long", http.StatusRequestURITooLong)
		return nil, false
	}
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		http.Error(w, "the query cannot be read", http.StatusBadRequest)
		return nil, false
	}
	for name := range q {
		if !slices.Contains(known, name) {
			http.Error(w, fmt.Sprintf("there is no parameter %q: use %s", name, strings.Join(known, ", ")), http.StatusBadRequest)
			return nil, false
		}
	}
	return q, true
}

// limit reads the parameter of that name.
func limit(q url.Values, otherwise, highest int) (int, error) {
	text := q.Get("limit")
	if text == "" {
		return otherwise, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 || n > highest {
		return 0, fmt.Errorf("limit must be a number from 0 to %d", highest)
	}
	return n, nil
}

// flowFilter is what a client wants to see of the flows.
type flowFilter struct {
	peer, state, reason, text string
	order                     func(a, b Flow) int
	limit                     int
}

// flowOrders are the values of the parameter sort. The first is the default.
func flowOrders() map[string]func(a, b Flow) int {
	return map[string]func(a, b Flow) int{
		"id":  func(a, b Flow) int { return cmp.Compare(a.ID, b.ID) },
		"age": func(a, b Flow) int { return a.Started.Compare(b.Started) },
		"lan": func(a, b Flow) int { return cmp.Compare(b.LAN.Sent+b.LAN.Received, a.LAN.Sent+a.LAN.Received) },
		"wan": func(a, b Flow) int { return cmp.Compare(b.WAN.Sent+b.WAN.Received, a.WAN.Sent+a.WAN.Received) },
	}
}

func newFlowFilter(q url.Values) (flowFilter, error) {
	f := flowFilter{peer: q.Get("peer"), state: q.Get("state"), reason: q.Get("reason"), text: strings.ToLower(q.Get("q"))}
	var known bool
	if f.order, known = flowOrders()[cmp.Or(q.Get("sort"), "id")]; !known {
		return f, fmt.Errorf("sort must be id, age, lan or wan")
	}
	var err error
	f.limit, err = limit(q, defaultFlows, maxFlows)
	return f, err
}

// keeps says whether a flow passes the filter. The reason is given by number or by name; "none" finds the accelerated ones.
func (f flowFilter) keeps(flow Flow) bool {
	return (f.peer == "" || f.peer == flow.Peer) &&
		(f.state == "" || f.state == string(flow.State)) &&
		(f.reason == "" || f.reason == flow.Reason.String() || f.reason == strconv.Itoa(int(flow.Reason))) &&
		(f.text == "" || strings.Contains(strings.ToLower(flow.Source+" "+flow.Destination+" "+flow.Class), f.text))
}

func (f flowFilter) apply(now time.Time, flows []Flow) FlowsReport {
	flows = slices.DeleteFunc(flows, func(flow Flow) bool { return !f.keeps(flow) })
	slices.SortStableFunc(flows, f.order)
	out := FlowsReport{Total: len(flows), Flows: make([]FlowReport, 0, min(f.limit, len(flows)))}
	for _, flow := range flows[:min(f.limit, len(flows))] {
		out.Flows = append(out.Flows, newFlowReport(now, flow))
	}
	return out
}
