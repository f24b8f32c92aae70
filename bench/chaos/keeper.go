package chaos

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"wanpair/bench/faultfs"
	"wanpair/bench/pair"
)

// keeper looks after one gateway as a service manager would: it starts it again when it has died by itself, and watches what it uses.
type keeper struct {
	*pair.Gateway
	side victim
	a    *account
	disk *faultfs.Disk // under the cache; nil: a plain one

	mu     sync.Mutex
	wanted bool // it ought to run
	mortal bool // it may end by itself: the fault is meant to do that
	lives  []Life
	deaths int
	logAt  int64 // up to where the log was searched
}

// Life is what one process of a gateway used, from its start to its end.
type Life struct {
	Side    victim   `json:"side"`
	PID     int      `json:"pid"`
	Samples []Sample `json:"-"`
	// Seconds it was watched, largest resident memory, and its slope over the second half of its life.
	Seconds      float64 `json:"seconds"`
	MaxRSS       int64   `json:"max_rss_bytes"`
	SlopePerHour float64 `json:"rss_slope_bytes_per_hour"`
	SlopeError   float64 `json:"rss_slope_standard_error"`
	MaxFiles     int     `json:"max_descriptors"`
}

// Sample is one look at a process and its children.
type Sample struct {
	At         time.Time
	RSS        int64 // bytes, with children
	Files      int   // descriptors of the gateway itself
	Sockets    int
	Goroutines int // 0: not asked
	Flows      int
}

// expect says whether the gateway ought to run from now on.
func (k *keeper) expect(running bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.wanted = running
}

// start starts the gateway and expects it to run.
func (k *keeper) start(ctx context.Context) error {
	err := k.Start(ctx)
	k.expect(err == nil)
	return err
}

// mayDie says whether the gateway may end by itself from now on; it is started again in any case.
func (k *keeper) mayDie(may bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.mortal = may
}

// stop ends the gateway in order.
func (k *keeper) stop(ctx context.Context) error {
	k.expect(false)
	ctx, cancel := context.WithTimeout(ctx, 40*time.Second)
	defer cancel()
	return k.Stop(ctx)
}

// orphanLimit is how long the store's process may go on after its gateway was killed.
const orphanLimit = 10 * time.Second

// kill ends the gateway by SIGKILL, and waits for the store's process, which has to end by itself then.
func (k *keeper) kill() error {
	k.expect(false)
	if !k.Running() {
		return nil
	}
	store := k.store()
	if err := k.Kill(); err != nil || store == 0 {
		return err
	}
	killed := time.Now()
	for syscall.Kill(store, 0) == nil && !zombie(store) {
		if time.Since(killed) > orphanLimit {
			k.a.find("leak", "the store's process of %s goes on %v after its gateway was killed", k.side, orphanLimit)
			return nil
		}
		time.Sleep(5 * time.Millisecond) // it is nobody's child any more, so there is nothing to wait on
	}
	return nil
}

// dump ends a gateway that does not do its work by SIGQUIT, which makes it write what all its goroutines are doing into its log, and starts
// it again.
func (k *keeper) dump(ctx context.Context) {
	k.expect(false)
	if err := k.Signal(syscall.SIGQUIT); err != nil {
		return // it does not run
	}
	if err := k.Stop(ctx); err != nil { // after SIGQUIT nothing but the wait counts
		k.a.find("dumped", "the goroutines of %s are in %s", k.side, k.LogPath())
	}
	if err := k.start(ctx); err != nil {
		k.a.find("harness", "start %s: %v", k.side, err)
	}
}

// zombie says whether a process has ended and nobody has asked how.
func zombie(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(text), ") Z ")
}

// watch samples every second and starts a gateway that died by itself, until ctx ends.
func (k *keeper) watch(ctx context.Context) {
	for ctx.Err() == nil {
		pause(ctx, time.Second)
		k.mu.Lock()
		wanted := k.wanted
		k.mu.Unlock()
		if wanted && !k.Running() && ctx.Err() == nil {
			k.died(ctx)
			continue
		}
		k.sample()
	}
}

func (k *keeper) died(ctx context.Context) {
	why := k.lastWords()
	k.mu.Lock()
	k.deaths++
	n, mortal := k.deaths, k.mortal
	k.mu.Unlock()
	if !mortal {
		k.a.find("died", "gateway %s by itself: %s", k.side, why)
	}
	if dead, err := os.ReadFile(k.LogPath()); err == nil && n <= maxAlike {
		_ = os.WriteFile(fmt.Sprintf("%s.death%d", k.LogPath(), n), dead[max(0, len(dead)-1<<20):], 0o644)
	}
	if err := k.Start(ctx); err != nil && ctx.Err() == nil {
		k.a.find("harness", "start %s: %v", k.side, err)
	}
}

// lastWords is the line that says why a process ended.
func (k *keeper) lastWords() string {
	text, err := os.ReadFile(k.LogPath())
	if err != nil {
		return err.Error()
	}
	text = text[min(k.logAt, int64(len(text))):]
	k.logAt += int64(len(text))
	last := ""
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		for _, word := range []string{"panic:", "fatal error:", "unexpected fault address", "SIGBUS", "wanpair:", "runtime:"} {
			if strings.HasPrefix(line, word) || strings.HasPrefix(line, "["+word) {
				return line
			}
		}
		if line != "" {
			last = line
		}
	}
	return last
}

// sample looks at the running process.
func (k *keeper) sample() {
	pid := k.PID()
	if pid == 0 {
		return
	}
	s, err := look(pid)
	if err != nil {
		return // it has just ended
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if n := len(k.lives); n == 0 || k.lives[n-1].PID != pid {
		k.lives = append(k.lives, Life{Side: k.side, PID: pid})
	}
	life := &k.lives[len(k.lives)-1]
	life.Samples = append(life.Samples, s)
}

// look reads what a process uses.
func look(pid int) (Sample, error) {
	s := Sample{At: time.Now()}
	for _, p := range append([]int{pid}, children(pid)...) {
		rss, err := residentBytes(p)
		if err != nil && p == pid {
			return s, err
		}
		s.RSS += rss
	}
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	files, err := os.ReadDir(dir)
	for _, f := range files {
		s.Files++
		if to, err := os.Readlink(filepath.Join(dir, f.Name())); err == nil && strings.HasPrefix(to, "socket:") {
			s.Sockets++
		}
	}
	return s, err
}

// residentBytes reads /proc/PID/statm: see proc(5).
func residentBytes(pid int) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(text))
	if len(fields) < 2 {
		return 0, fmt.Errorf("/proc/%d/statm: %q", pid, text)
	}
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	return pages * int64(os.Getpagesize()), err
}

// children lists the processes whose parent is pid.
func children(pid int) []int {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", pid))
	if err == nil && len(text) > 0 {
		return numbers(string(text))
	}
	var out []int
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid)) // the thread that forked is the one that lists the child
	for _, task := range tasks {
		if text, err := os.ReadFile(task); err == nil {
			out = append(out, numbers(string(text))...)
		}
	}
	return out
}

func numbers(text string) []int {
	var out []int
	for _, word := range strings.Fields(text) {
		if n, err := strconv.Atoi(word); err == nil {
			out = append(out, n)
		}
	}
	return out
}

// store is the process of the gateway's store, 0 where there is none.
func (k *keeper) store() int {
	for _, child := range children(k.PID()) {
		if line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", child)); err == nil && bytes.Contains(line, []byte("\x00cache\x00")) {
			return child
		}
	}
	return 0
}

// idle looks at the gateway with all that its endpoint tells.
func (k *keeper) idle(ctx context.Context) (Sample, error) {
	s, err := look(k.PID())
	if err != nil {
		return s, err
	}
	var flows struct {
		Flows []struct {
			State string `json:"state"`
		} `json:"flows"`
	}
	body, _, err := k.Get(ctx, "/api/v1/flows")
	if err == nil {
		err = json.Unmarshal(body, &flows)
	}
	if err != nil {
		return s, err
	}
	for _, f := range flows.Flows {
		if f.State != "passed" { // those are samples of raw connections
			s.Flows++
		}
	}
	body, _, err = k.Get(ctx, "/metrics")
	for scanner := bufio.NewScanner(bytes.NewReader(body)); scanner.Scan(); {
		if value, ok := strings.CutPrefix(scanner.Text(), "go_goroutines "); ok {
			s.Goroutines, _ = strconv.Atoi(value)
		}
	}
	return s, err
}

// summary condenses the lives.
func (k *keeper) summary() []Life {
	k.mu.Lock()
	defer k.mu.Unlock()
	out := make([]Life, 0, len(k.lives))
	for _, life := range k.lives {
		life.condense()
		out = append(out, life)
	}
	return out
}

func (l *Life) condense() {
	if len(l.Samples) == 0 {
		return
	}
	first, last := l.Samples[0].At, l.Samples[len(l.Samples)-1].At
	l.Seconds = last.Sub(first).Seconds()
	var x, y []float64
	for _, s := range l.Samples {
		l.MaxRSS, l.MaxFiles = max(l.MaxRSS, s.RSS), max(l.MaxFiles, s.Files)
		if at := s.At.Sub(first).Seconds(); at >= l.Seconds/2 {
			x, y = append(x, at), append(y, float64(s.RSS))
		}
	}
	slope, deviation := trend(x, y)
	l.SlopePerHour, l.SlopeError = slope*3600, deviation*3600
}

// trend fits a line and returns its slope and the standard error of that. Neighbouring samples of memory are alike, so samples are first
// averaged over ten windows, which hardly are: the error would come out far too small otherwise.
func trend(x, y []float64) (slope, deviation float64) {
	const windows = 10
	if len(x) < 3*windows {
		return 0, 0
	}
	var mx, my [windows]float64
	var meanX, meanY float64
	for i := range windows {
		from, to := i*len(x)/windows, (i+1)*len(x)/windows
		for j := from; j < to; j++ {
			mx[i] += x[j] / float64(to-from)
			my[i] += y[j] / float64(to-from)
		}
		meanX += mx[i] / windows
		meanY += my[i] / windows
	}
	var sxx, sxy, rest float64
	for i := range windows {
		sxx += (mx[i] - meanX) * (mx[i] - meanX)
		sxy += (mx[i] - meanX) * (my[i] - meanY)
	}
	slope = sxy / sxx
	for i := range windows {
		d := my[i] - meanY - slope*(mx[i]-meanX)
		rest += d * d
	}
	return slope, math.Sqrt(rest / (windows - 2) / sxx)
}
