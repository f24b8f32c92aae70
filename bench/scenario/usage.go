package scenario

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// clockTick is the unit of times in /proc/PID/stat: USER_HZ is 100 on every Linux that Go runs on.
const clockTick = 10 * time.Millisecond

// usage is what processes have used so far.
type usage struct {
	cpu time.Duration
	rss int64 // the most each one held, added up
}

// usage adds up both gateways with their child processes; nothing without gateways.
func (m *Meter) usage() (usage, error) {
	var sum usage
	if m.pair == nil {
		return sum, nil
	}
	for _, pid := range []int{m.pair.Near.PID(), m.pair.Far.PID()} {
		if pid == 0 {
			return sum, errors.New("a gateway does not run")
		}
		one, err := treeUsage(pid)
		if err != nil {
			return sum, err
		}
		sum.cpu += one.cpu
		sum.rss += one.rss
	}
	return sum, nil
}

// TreeUsage is the CPU time that a process and its descendants that live have used, and the memory that each held at most, added up.
func TreeUsage(root int) (cpu time.Duration, rssBytes int64, err error) {
	u, err := treeUsage(root)
	return u.cpu, u.rss, err
}

// treeUsage adds up a process and all its descendants that live.
func treeUsage(root int) (usage, error) {
	parents, err := processes()
	if err != nil {
		return usage{}, err
	}
	var sum usage
	family := map[int]bool{root: true}
	for grown := true; grown; {
		grown = false
		for pid, parent := range parents {
			if family[parent] && !family[pid] {
				family[pid], grown = true, true
			}
		}
	}
	for pid := range family {
		one, err := processUsage(pid)
		switch {
		case errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH):
			continue // ended meanwhile
		case err != nil:
			return sum, err
		}
		sum.cpu += one.cpu
		sum.rss += one.rss
	}
	return sum, nil
}

// processes maps each process to its parent.
func processes() (map[int]int, error) {
	paths, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	parents := make(map[int]int, len(paths))
	for _, path := range paths {
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil {
			continue
		}
		data, err := os.ReadFile(path)
		if err != nil {
			continue // ended meanwhile
		}
		if fields := statFields(data); len(fields) > 1 {
			parents[pid], _ = strconv.Atoi(fields[1])
		}
	}
	return parents, nil
}

// statFields splits what follows the name, which stands in brackets and may hold anything: state, parent, and so on (proc(5)).
func statFields(stat []byte) []string {
	return strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
}

func processUsage(pid int) (usage, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return usage{}, err
	}
	const userTime, systemTime = 11, 12 // of what statFields returns
	fields := statFields(stat)
	if len(fields) <= systemTime {
		return usage{}, fmt.Errorf("/proc/%d/stat is not understood", pid)
	}
	var u usage
	for _, i := range []int{userTime, systemTime} {
		ticks, err := strconv.ParseInt(fields[i], 10, 64)
		if err != nil {
			return usage{}, fmt.Errorf("/proc/%d/stat: %w", pid, err)
		}
		u.cpu += time.Duration(ticks) * clockTick
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return usage{}, err
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			if err != nil {
				return usage{}, fmt.Errorf("/proc/%d/status: %w", pid, err)
			}
			u.rss = kib << 10
		}
	}
	return u, nil
}
