package chaos

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"
)

var (
	// errWrongByte and errCleanEnd are violations: the campaign ends.
	errWrongByte = errors.New("wrong byte")
	errCleanEnd  = errors.New("clean end of a truncated flow")
	// errStalled ends a transfer that made no progress for the client's patience.
	errStalled = errors.New("no progress")
)

// violation says whether err is what must never happen.
func violation(err error) bool { return errors.Is(err, errWrongByte) || errors.Is(err, errCleanEnd) }

// Outcome is how a transfer ended.
type Outcome string

const (
	// Whole is byte-identical, and ended cleanly at both ends.
	Whole Outcome = "whole"
	// Broken ended with a reset or error; what had arrived was right.
	Broken Outcome = "broken"
	// Refused never came to be: connect failed.
	Refused Outcome = "refused"
	// Stalled made no progress for as long as the client was willing to wait.
	Stalled Outcome = "stalled"
	// Intended was reset by one end on purpose, and was seen as a reset at the other.
	Intended Outcome = "intended reset"
	// Wrong is a violation.
	Wrong Outcome = "wrong"
)

// Outcomes lists them in the order of reports.
func Outcomes() []Outcome { return []Outcome{Whole, Intended, Broken, Refused, Stalled, Wrong} }

// Violation is what must never happen.
type Violation struct {
	At   time.Duration `json:"at"` // since the campaign began
	What string        `json:"what"`
}

// Finding is what should not have happened.
type Finding struct {
	At    time.Duration `json:"at"`
	Fault string        `json:"fault,omitempty"` // the latest one, or the one going on
	What  string        `json:"what"`
}

// Second counts how transfers ended in one second of the campaign.
type Second struct {
	Whole  int `json:"whole"`
	Broken int `json:"broken"` // and refused and stalled
}

// account counts. Its methods may be called from any goroutine.
type account struct {
	began time.Time
	stop  func() // called at the first violation

	mu         sync.Mutex
	transfers  map[string]map[Outcome]int // by kind
	bytes      int64
	violations []Violation
	findings   []Finding
	suppressed map[string]int // findings of a kind beyond the first ones
	seconds    []Second
	fault      string    // going on or latest
	quietSince time.Time // zero while a fault is going on
}

func newAccount(stop func()) *account {
	now := time.Now()
	return &account{began: now, stop: stop, transfers: map[string]map[Outcome]int{}, suppressed: map[string]int{}, quietSince: now}
}

// end counts one transfer.
func (a *account) end(kind string, o Outcome, bytes int64, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.transfers[kind] == nil {
		a.transfers[kind] = map[Outcome]int{}
	}
	a.transfers[kind][o]++
	a.bytes += bytes
	second := int(time.Since(a.began).Seconds())
	for len(a.seconds) <= second {
		a.seconds = append(a.seconds, Second{})
	}
	switch o {
	case Whole, Intended:
		a.seconds[second].Whole++
	case Broken, Refused, Stalled:
		a.seconds[second].Broken++
	case Wrong:
		a.violations = append(a.violations, Violation{time.Since(a.began), fmt.Sprintf("%s: %v (fault: %s)", kind, err, a.fault)})
		a.stop()
	}
}

// violate records a violation that an end without a transfer of its own has seen.
func (a *account) violate(what string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.violations = append(a.violations, Violation{time.Since(a.began), fmt.Sprintf("%s (fault: %s)", what, a.fault)})
	a.stop()
}

// maxAlike is how many findings that begin with the same words are kept.
const maxAlike = 12

// find records a finding; topic groups those that are alike.
func (a *account) find(topic, format string, args ...any) Finding {
	a.mu.Lock()
	defer a.mu.Unlock()
	text := strings.Join(strings.Fields(fmt.Sprintf(format, args...)), " ")
	const longest = 600
	f := Finding{time.Since(a.began), a.fault, topic + ": " + text[:min(len(text), longest)]}
	a.suppressed[topic]++
	if a.suppressed[topic] <= maxAlike {
		a.findings = append(a.findings, f)
	}
	return f
}

// found says whether there was a finding of a topic.
func (a *account) found(topic string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.suppressed[topic] > 0
}

// begin and heal tell the account that a fault is going on, or that all is well again.
func (a *account) begin(name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.fault, a.quietSince = name, time.Time{}
}

func (a *account) heal() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.quietSince = time.Now()
}

// quiet is for how long no fault has been going on.
func (a *account) quiet() time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.quietSince.IsZero() {
		return 0
	}
	return time.Since(a.quietSince)
}
